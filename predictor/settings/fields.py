"""Every setting of the predictor, declared once; parser, messages and README's table follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from predictor.settings.session_fields import SessionFields
from predictor.settings.spec import Spec, setting

DEFAULT_MODEL_NAME: Final = "qwen3-asr"
DEFAULT_MODEL_DIR: Final = Path("/mnt/models")  # where KServe's storage initializer puts weights
ENV_PREFIX: Final = "QWEN3_ASR_"
AUDIO_TOKENS_PER_S: Final = 13
PROMPT_TOKENS: Final = 64  # of the chat template around audio and context
_DTYPES: Final = {
    "auto": "auto",
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "int8": "int8",
    "fp8": "fp8",
}
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Settings(SessionFields):
    """The effective settings; `sources` says for each where its value came from."""

    # The model
    model_name: str = setting(
        DEFAULT_MODEL_NAME,
        f"name in every protocol; `{DEFAULT_MODEL_NAME}` is answered to as well",
    )
    model_aliases: tuple[str, ...] = setting(
        (),
        "further names the model answers to, separated by commas, such as `whisper-1` or a hub id",
        kind=tuple,
    )
    model_dir: Path | None = setting(  # noqa: RUF009  # makes a dataclass field
        None,
        f"folder of the checkpoint; `{DEFAULT_MODEL_DIR}` when no `model_id` is given either",
        kind=Path,
        none="",
        env=("MODEL_PATH",),
    )
    model_id: str | None = setting(
        None, "hub id of the checkpoint, instead of `model_dir`", kind=str, none=""
    )
    model_revision: str | None = setting(
        None, "branch, tag or commit of `model_id`", kind=str, none=""
    )
    aligner_dir: Path | None = setting(  # noqa: RUF009  # makes a dataclass field
        None,
        "folder of a forced aligner, which gives words their times; without one there are none",
        kind=Path,
        none="",
    )
    aligner_id: str | None = setting(
        None, "hub id of a forced aligner, instead of `aligner_dir`", kind=str, none=""
    )
    aligner_revision: str | None = setting(
        None, "branch, tag or commit of `aligner_id`", kind=str, none=""
    )
    device: str = setting(
        "auto", "`auto` takes CUDA where there is one", choices=("auto", "cpu", "cuda")
    )
    precision: str = setting(
        "auto",
        "`auto` is bf16 on CUDA and fp32 on CPU; `fp8` is for CUDA",
        choices=tuple(_DTYPES),
    )
    devices: tuple[str, ...] | None = setting(
        None,
        "indices of the devices to serve on, separated by commas, with one engine each; `auto` "
        "takes all CUDA devices, or the CPU once",
        kind=tuple,
        none="auto",
    )
    kv_precision: str = setting(
        "auto",
        "what keys and values are kept in: `auto` is what is computed with; `fp8`, 8 bits, is for "
        "CUDA with compute capability 8.9 or higher and a `precision` other than `fp32`",
        choices=("auto", "fp8"),
    )
    num_threads: int | None = setting(
        None,
        "CPU threads of torch; `auto` leaves it to torch",
        kind=int,
        low=1,
        high=1024,
        none="auto",
    )

    # The server
    host: str = setting("0.0.0.0", "address to listen on")  # noqa: S104  # a pod's own address
    http_port: int = setting(8080, "HTTP port; 0 takes a free one", low=0, high=65535)
    grpc_port: int = setting(8081, "gRPC port; 0 takes a free one", low=0, high=65535)
    enable_grpc: bool = setting(True, "serve the V2 protocol over gRPC as well")
    num_front_processes: int | None = setting(
        None,
        "processes that speak HTTP and gRPC and decode, all before the same engines; `auto`: one "
        "for two CPUs of the container, 8 at most, where the engine runs on CUDA, else one",
        kind=int,
        low=1,
        high=64,
        none="auto",
    )
    api_keys: tuple[str, ...] = setting(
        (),
        "keys, separated by commas, of which requests must carry one; empty asks for none",
        kind=tuple,
        is_secret=True,
    )
    api_keys_file: Path | None = setting(  # noqa: RUF009  # makes a dataclass field
        None,
        "further keys: a file of lines `NAME KEY`, or a folder with a file for each; read anew "
        "when it changes",
        kind=Path,
        none="",
    )
    tls_cert_file: Path | None = setting(  # noqa: RUF009
        None,
        "certificate chain (PEM) for HTTP and gRPC, read anew when it changes",
        kind=Path,
        none="",
    )
    tls_key_file: Path | None = setting(  # noqa: RUF009
        None, "private key (PEM) of `tls_cert_file`", kind=Path, none=""
    )
    admin_port: int | None = setting(
        None,
        "HTTP port of its own for health and metrics, without TLS and keys; 0 takes a free one",
        kind=int,
        low=0,
        high=65535,
        none="off",
    )
    cors_origins: tuple[str, ...] = setting(
        (),
        "origins, separated by commas, whose pages may send requests from a browser; `*` is any",
        kind=tuple,
    )
    check_ready_clip: bool = setting(
        True,
        "become ready only when the model hears the built-in English clip as a sound one does; "
        "false for models that know no English",
    )
    enable_page: bool = setting(
        False, "give browsers that ask for `/` a page to speak into; others get the health answer"
    )
    max_body_bytes: int = setting(
        64 * _MIB, "largest HTTP body or gRPC message", low=1024, high=1024 * _MIB
    )
    spool_dir: Path | None = setting(  # noqa: RUF009  # makes a dataclass field
        None,
        "folder on disk that takes recordings above 8 MiB while they come in, instead of memory; "
        "`max_body_bytes` does not bound them then; `off` where no disk is writable",
        kind=Path,
        none="off",
    )
    max_spool_bytes: int = setting(
        8 * 1024 * _MIB,
        "most bytes in `spool_dir`, of one recording and of all together",
        low=16 * _MIB,
        high=1 << 42,
    )
    max_connections: int = setting(
        1000,
        "HTTP connections of one front process, and as many of gRPC; further ones are answered "
        "probes only",
        low=1,
        high=1_000_000,
    )
    client_timeout_s: float = setting(
        10.0,
        "time for a request's head to be complete, and for its body to bring 4 kB a second",
        low=1,
        high=3600,
    )
    max_items: int = setting(64, "most recordings in one V1 or V2 request", low=1, high=4096)
    max_context_tokens: int = setting(
        512, "longest context (hot words) of a request, in tokens", low=0, high=8192
    )
    request_timeout_s: float = setting(600.0, "time limit of one request", low=1, high=86400)
    shutdown_delay_s: float = setting(
        0.0, "after SIGTERM, time during which requests are still taken", low=0, high=600
    )
    shutdown_grace_s: float = setting(
        25.0, "after that, time for requests in flight to finish", low=0, high=3600
    )
    log_level: str = setting(
        "info", "lowest level that is logged", choices=("debug", "info", "warning", "error")
    )
    log_format: str = setting(
        "auto",
        "form of the log lines; `auto` is `text` on a terminal, else `json`",
        choices=("auto", "json", "text"),
    )

    log_text: bool = setting(
        False, "add the transcript to a request's log line; else no text is ever logged"
    )
    native_histograms: bool = setting(
        False, "count histograms natively as well, for a Prometheus that scrapes protobuf"
    )

    # Audio
    max_audio_s: float = setting(
        14_400.0,
        "longest recording; longer ones are refused, never cut off",
        low=1,
        high=86400,
        file_key="max_audio_length",
    )
    segment_s: float = setting(
        30.0,
        "longer recordings are cut at quiet places into pieces of at most this",
        low=2,
        high=1200,
    )
    vad: str = setting(
        "silero",
        "what finds speech, so that nothing else is transcribed: `silero` is a small network, "
        "`energy` goes by loudness, `off` transcribes everything",
        choices=("silero", "energy", "off"),
    )
    vad_threshold: float = setting(
        0.5, "probability at which speech begins; it ends 0.15 below", low=0.01, high=0.99
    )
    vad_margin_s: float = setting(
        0.2, "heard before speech begins and after it has ended", low=0, high=5
    )
    vad_min_speech_s: float = setting(0.1, "what is shorter is no speech", low=0, high=5)
    vad_min_silence_s: float = setting(
        0.5, "what is shorter is a pause within one piece", low=0.05, high=30
    )
    max_channels: int = setting(8, "most channels of a recording", low=1, high=64)
    num_decode_workers: int | None = setting(
        None,
        "processes that decode recordings and find speech, of all fronts together; `auto`: three "
        "for four CPUs of the container, 2 at least",
        kind=int,
        low=1,
        high=256,
        none="auto",
    )
    max_long_recordings: int = setting(
        4,
        "recordings of more than 8 pieces that are decoded at a time, each in a process of its own",
        low=1,
        high=256,
    )
    decode_timeout_s: float = setting(
        60.0, "time limit for decoding a window of a recording", low=1, high=3600
    )
    max_decoded_values: int = setting(
        5_529_600_000,
        "most samples times channels a recording may decode to",
        low=16_000,
        high=1 << 34,
    )
    max_pending_bytes: int = setting(
        512 * _MIB,
        "most bytes of audio that wait to be decoded; more is answered with 429",
        low=_MIB,
        high=64 * 1024 * _MIB,
    )
    audio_channel: str = setting(
        "mix",
        "`mix` is the mean of all channels, `separate` transcribes each on its own, a number from "
        "0 is that channel alone",
        may_be_number=True,
    )
    high_pass_hz: float | None = setting(
        None,
        "corner frequency of a high-pass against hum and rumble",
        kind=float,
        low=10,
        high=1000,
        none="off",
    )
    loudness_lufs: float | None = setting(
        None,
        "loudness (BS.1770) that every recording is brought to, by 30 dB at most",
        kind=float,
        low=-60,
        high=-5,
        none="off",
    )

    # The engine
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
    overlap_prefill: bool = setting(
        False, "on CUDA, take in new recordings while 256 or more others are decoded, not in turn"
    )
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

    # The answer
    language_detection: bool = setting(
        True, "detect the language of requests that give none; `false` needs `language`"
    )
    language: str | None = setting(
        None,
        "language of requests that give none; setting it turns detection off",
        kind=str,
        none="auto",
    )
    output_format: str = setting(
        "text",
        "answer of `/api/v1/recognize`: `text` has the four plain fields, `json` adds `details`",
        choices=("text", "json"),
    )
    cue_max_columns: int = setting(42, "longest line of a subtitle, in columns", low=8, high=200)
    cue_max_wide_chars: int = setting(
        18,
        "the same for lines with Chinese, Japanese or Korean, in such characters",
        low=4,
        high=100,
    )
    cue_max_lines: int = setting(2, "most lines of a subtitle", low=1, high=6)
    cue_min_s: float = setting(
        1.0, "subtitles are shown at least so long where nothing follows", low=0, high=10
    )
    cue_max_s: float = setting(7.0, "longest time of a subtitle", low=1, high=60)

    config_file: Path | None = None  # the file that was read
    sources: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[str, ...] = ()  # what the operator should know, for the log

    @property
    def dtype(self) -> str:
        """`precision` as torch names it, or "auto"."""
        return _DTYPES[self.precision]

    @property
    def has_aligner(self) -> bool:
        """Whether words have times."""
        return self.aligner_dir is not None or self.aligner_id is not None

    @property
    def served_names(self) -> tuple[str, ...]:
        """The model's name first, then the names it is answered to as well."""
        names = (self.model_name, DEFAULT_MODEL_NAME, *self.model_aliases)
        return tuple(dict.fromkeys(names))


def specs() -> dict[str, tuple[Spec, Any]]:
    """Name -> (spec, default) of every setting, in the order of the table."""
    found, inherited = {}, {each.name for each in fields(SessionFields)}
    for declared in sorted(fields(Settings), key=lambda each: each.name in inherited):
        if "spec" in declared.metadata:
            found[declared.name] = (declared.metadata["spec"], _default(declared))
    return found


def _default(declared: Field[Any]) -> Any:
    assert declared.default is not MISSING
    return declared.default
