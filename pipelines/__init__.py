"""Evaluation of a running Qwen3-ASR service, and the canary that it decides."""
