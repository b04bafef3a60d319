"""Qwen3-ASR served as a KServe InferenceService."""

__version__ = "0.1.0"
