"""Settings: batches, memory and load."""

from __future__ import annotations

from dataclasses import dataclass

from predictor.settings.spec import setting


@dataclass(frozen=True, kw_only=True)
class EngineFields:
    """Part of Settings."""

    engine_process: bool | None = setting(
        None,
        "run the engine in a process of its own, so that it never waits for the server's work; "
        "`auto`: where it runs on CUDA",
        kind=bool,
        none="auto",
    )
    max_num_seqs: int = setting(
        64, "sequences decoded together", low=1, high=4096, file_key="batch_size"
    )
    max_model_len: int = setting(
        3072, "tokens of one piece: audio, prompt and answer", low=256, high=65536
    )
    kv_memory_fraction: float = setting(
        0.85, "share for the cache of the memory that is free after loading", low=0.01, high=1
    )
    max_prefill_audio_s: float = setting(120.0, "audio encoded in one step", low=1, high=7200)
    max_held_audio_s: float = setting(
        7200.0, "audio waiting or running; more is answered with 429", low=1, high=10_000_000
    )
    full_load_s: float = setting(
        5.0,
        "a replica counts as full (`qwen3_asr_load` 1) when it holds what takes so long at the "
        "speed it had lately, or `max_held_audio_s`",
        low=0.1,
        high=3600,
    )
    max_tokens_per_audio_s: float = setting(
        16.0, "cap of the answer for each second of audio; fast speech needs 8", low=1, high=100
    )
    stall_timeout_s: float = setting(
        60.0, "a step longer than this makes the server report itself dead", low=1, high=3600
    )
