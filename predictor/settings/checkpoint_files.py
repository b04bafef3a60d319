"""What a checkpoint's files say of a start, in milliseconds: without torch, and no tensor is read.

What this finds would otherwise be said after seconds of imports. Shapes and names are looked at
when the weights are loaded.
"""

from __future__ import annotations

import errno
import json
import os
import struct
from pathlib import Path
from typing import Final

UNREADABLE: Final = "cannot be read by user {uid}; chmod it, or run as its owner"
_CONFIG: Final = "config.json"
_INDEX: Final = "model.safetensors.index.json"
_TOKENIZERS: Final = ({"tokenizer.json"}, {"vocab.json", "merges.txt", "tokenizer_config.json"})
_LFS: Final = b"version https://git-lfs"
_MAX_HEADER: Final = 100_000_000  # bytes; safetensors' own limit
_INCOMPLETE: Final = "was the download complete?"


def checkpoint_problem(folder: Path, setting: str = "model_dir") -> str | None:
    """Why `folder` cannot be served as far as its files say; None when nothing speaks against it.

    `setting` is the name of the setting that gave it.
    """
    said = f"{setting} {folder}:"
    try:
        names = os.listdir(folder)
    except OSError as error:
        return f"{said} {_reason(error, setting)}"
    if _CONFIG not in names:
        what = "is empty" if not names else f"holds no {_CONFIG}"
        return f"{said} {what}; it must be a checkpoint's folder (config.json, *.safetensors)"
    weights = sorted(name for name in names if name.endswith(".safetensors"))
    if not weights:
        return f"{said} holds no weights (*.safetensors); {_INCOMPLETE}"
    for name in (_CONFIG, *weights):
        if not os.access(folder / name, os.R_OK):
            return f"{said} {name} {UNREADABLE.format(uid=os.getuid())}"
    problem = _in_config(folder / _CONFIG, setting) or _missing(folder, set(names))
    for name in weights:
        problem = problem or _in_weights(folder / name)
    return problem and f"{said} {problem}"


def _reason(error: OSError, setting: str) -> str:
    if error.errno == errno.ENOENT:
        return f"no such folder; mount the checkpoint there or set {setting}"
    if error.errno == errno.ENOTDIR:
        return "is a file; give the folder that holds config.json"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"the folder {UNREADABLE.format(uid=os.getuid())}"
    return str(error.strerror)


def _in_config(file: Path, setting: str) -> str | None:
    """A file that is cut off, or another model's, or a recogniser's for an aligner's."""
    try:
        config = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        return f"{_CONFIG} is not JSON ({error}); {_INCOMPLETE}"
    if not isinstance(config, dict):
        return f"{_CONFIG} must hold a JSON object"
    model = config.get("thinker_config", config)
    if not isinstance(model, dict) or not {"audio_config", "text_config"} <= set(model):
        kind = config.get("model_type", "no model_type")
        return f"{_CONFIG} is not of a Qwen3-ASR ({kind}: it has no audio_config and text_config)"
    architectures = config.get("architectures")
    named = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    is_aligner = "classify_num" in model or "ForTokenClassification" in named
    if is_aligner and setting == "model_dir":
        return "is a forced aligner, which transcribes nothing; it goes into aligner_dir"
    if not is_aligner and setting == "aligner_dir":
        return "is a recogniser, which knows no times; give a forced aligner, or leave it out"
    return None


def _missing(folder: Path, names: set[str]) -> str | None:
    """Files that others need: a tokenizer, and the shards that an index names."""
    if not any(needed <= names for needed in _TOKENIZERS):
        return f"holds no tokenizer (tokenizer.json, or vocab.json and merges.txt); {_INCOMPLETE}"
    if _INDEX not in names:
        return None
    try:
        named = json.loads((folder / _INDEX).read_bytes())["weight_map"].values()
        absent = sorted(set(named) - names)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # said with its place when the weights are loaded
    if absent:
        return f"{_INDEX} names {absent[0]}, which is not here; {_INCOMPLETE}"
    return None


def _in_weights(file: Path) -> str | None:
    """A file that is shorter than its header says, or no weights at all."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(len(_LFS))
        if start == _LFS:
            return f"{file.name} is a pointer of Git LFS; fetch the file itself (git lfs pull)"
        header_bytes = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else _MAX_HEADER + 1
        if header_bytes > _MAX_HEADER:
            return f"{file.name} is no safetensors file; {_INCOMPLETE}"
        opened.seek(8)
        try:
            header = json.loads(opened.read(header_bytes))
            ends = [each["data_offsets"][1] for n, each in header.items() if n != "__metadata__"]
            expected = 8 + header_bytes + max(ends, default=0)
        except (ValueError, LookupError, TypeError, AttributeError):
            return f"the header of {file.name} cannot be read; {_INCOMPLETE}"
    if size < expected:
        return f"{file.name} has {size:,} of its {expected:,} bytes; {_INCOMPLETE}"
    return None
