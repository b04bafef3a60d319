"""Fill a model from a checkpoint folder: safetensors, one file or sharded, either key layout.

Strict: every tensor the model needs must be there in its shape, and every tensor that is there
must be one the model needs. Nothing is unpickled and no code from the folder is run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from predictor.model.config import CheckpointError, ModelConfig
from predictor.model.model import Model
from predictor.model.quantized import Quantize

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
EMBEDDING = "model.language_model.embed_tokens.weight"
HEAD = "lm_head.weight"

# Original prefix -> native prefix; all that match are applied, in this order.
KEY_MAP = (
    ("thinker.model.", "model.language_model."),
    ("thinker.lm_head.", "lm_head."),
    ("thinker.", "model."),
    ("model.audio_tower.proj1.", "model.multi_modal_projector.linear_1."),
    ("model.audio_tower.proj2.", "model.multi_modal_projector.linear_2."),
)

# What a checkpoint folder holds that we read; no scripts, no pickles.
HUB_PATTERNS = ("*.safetensors", "*.json", "*.txt")


def resolve_model(
    *, model_dir: Path | None = None, model_id: str | None = None, revision: str | None = None
) -> Path:
    """The checkpoint's folder: `model_dir` as it is, or a download of `model_id` from the hub.

    Exactly one of the two must be given. CheckpointError when the folder does not exist
    or the download fails.
    """
    if (model_dir is None) == (model_id is None):
        raise CheckpointError("give either model_dir or model_id, not both and not neither")
    if model_dir is not None:
        if not model_dir.is_dir():
            raise CheckpointError(f"model_dir {model_dir}: no such folder")
        return model_dir
    from huggingface_hub import snapshot_download  # only this branch needs it

    assert model_id is not None
    try:
        folder = snapshot_download(model_id, revision=revision, allow_patterns=list(HUB_PATTERNS))
    except (OSError, ValueError) as error:  # the hub's errors are kinds of these
        name = f"{model_id} at revision {revision}" if revision else model_id
        raise CheckpointError(f"model_id {name}: cannot be downloaded: {error}") from error
    return Path(folder)


def load_model(
    path: Path,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    quantize_part: Quantize | None = None,
) -> Model:
    """Read config and weights of the checkpoint folder `path`; raises CheckpointError.

    Part by part: with `quantize_part` each is quantized before the next is read.
    """
    device = torch.device(device)
    config = ModelConfig.from_folder(path)
    files = _tensor_files(path)
    model = Model.empty(config, device=device, dtype=dtype)
    _check_names(path, files, model.tensors().keys(), config)
    for part, targets in model.parts():
        for file in sorted({files[name][0] for name in targets}):
            with _opened(path / file, device) as shard:
                names = {n: files[n][1] for n in targets if files[n][0] == file}
                _read_tensors(path / file, shard, names, targets)
        if part is model.decoder and config.tied_embeddings and HEAD in files:
            _check_tied_head(path, files[HEAD], targets[EMBEDDING], device)
        targets.clear()  # no view may keep what is replaced
        if quantize_part is not None:
            quantize_part(part)
    model.finish_loading()
    return model


def native_name(name: str) -> str:
    """A tensor's name in the native layout."""
    for old, new in KEY_MAP:
        if name.startswith(old):
            name = new + name.removeprefix(old)
    return name


def _tensor_files(path: Path) -> dict[str, tuple[str, str]]:
    """Native name -> (file, name in that file) of every tensor of the checkpoint."""
    shards = _sharded(path) if (path / INDEX_FILE).is_file() else [SINGLE_FILE]
    if not (path / shards[0]).is_file():
        raise CheckpointError(f"{path}: holds neither {SINGLE_FILE} nor {INDEX_FILE}")
    files: dict[str, tuple[str, str]] = {}
    for file in shards:
        with _opened(path / file, torch.device("cpu")) as shard:
            for name in shard.keys():  # noqa: SIM118  not a dict
                ours = native_name(name)
                if ours in files:
                    other_file, other = files[ours]
                    raise CheckpointError(
                        f"{path / file}: tensor {name} is also {other} in {other_file}"
                    )
                files[ours] = (file, name)
    return files


def _sharded(path: Path) -> list[str]:
    """The shard files an index names, all of them plain file names in the same folder."""
    index = path / INDEX_FILE
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(weight_map.values()))
    except (OSError, UnicodeDecodeError, ValueError, LookupError, TypeError, AttributeError) as e:
        raise CheckpointError(f"{index}: weight_map is not readable: {e!r}") from e
    for file in shards:
        if not isinstance(file, str) or Path(file).name != file or "\\" in file:
            raise CheckpointError(f"{index}: weight_map: {file!r} is not a plain file name")
        if not file.endswith(".safetensors") or not (path / file).is_file():
            raise CheckpointError(f"{index}: weight_map: {file!r} is no safetensors file here")
    if not shards:
        raise CheckpointError(f"{index}: weight_map is empty")
    return shards


def _check_names(
    path: Path,
    files: dict[str, tuple[str, str]],
    targets: Set[str],
    config: ModelConfig,
) -> None:
    missing = sorted(targets - files.keys())
    if missing:
        raise CheckpointError(f"{path}: missing {_listed(missing)}")
    extra = files.keys() - targets
    if config.tied_embeddings:
        extra.discard(HEAD)
    if extra:
        raise CheckpointError(
            f"{path}: not part of this model: {_listed(sorted(files[name][1] for name in extra))}"
        )


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{len(names)} tensors: {shown}{', ...' if len(names) > 5 else ''}"


def _read_tensors(
    file: Path, shard: Any, names: dict[str, str], targets: dict[str, Tensor]
) -> None:
    for ours, theirs in names.items():
        target = targets[ours]
        shape = tuple(shard.get_slice(theirs).get_shape())
        if shape != tuple(target.shape):
            raise CheckpointError(
                f"{file}: tensor {theirs} has shape {list(shape)}, "
                f"config.json asks for {list(target.shape)}"
            )
        tensor = shard.get_tensor(theirs)
        if not tensor.is_floating_point():
            raise CheckpointError(f"{file}: tensor {theirs} is {tensor.dtype}, not floating point")
        target.copy_(tensor)


def _check_tied_head(
    path: Path, where: tuple[str, str], embedding: Tensor, device: torch.device
) -> None:
    """A stored head must be the embedding it is tied to, or one of the two would be ignored."""
    file, name = where
    with _opened(path / file, device) as shard:
        head = shard.get_tensor(name)
    if head.shape != embedding.shape or not torch.equal(head.to(embedding.dtype), embedding):
        raise CheckpointError(
            f"{path / file}: tensor {name} differs from the embedding, "
            "though config.json ties them (tie_word_embeddings)"
        )


@contextmanager
def _opened(file: Path, device: torch.device) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt", device=str(device)) as shard:
            yield shard
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: not readable as safetensors: {error}") from error
