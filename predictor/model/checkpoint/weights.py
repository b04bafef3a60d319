"""Fill a model from a checkpoint folder: safetensors, one file or sharded, either key layout.

Strict: every tensor the model needs must be there in its shape, and every tensor that is there
must be one the model needs. Nothing is unpickled and no code from the folder is run.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from predictor.model.checkpoint.reading import DTYPES, Reader, Source, sources
from predictor.model.config import CheckpointError, ModelConfig
from predictor.model.model import Model
from predictor.model.quantized import Quantize

logger = logging.getLogger(__name__)

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
    if config.num_classes and HEAD in files:  # the original layout's name of an aligner's head
        files["score.weight"] = files.pop(HEAD)
    model = Model.empty(config, device=device, dtype=dtype)
    _check_names(path, files, model.tensors().keys(), config)
    places = _places(path, files, model.tensors())
    began_s = time.monotonic()
    # All at once keeps every reading thread busy; part by part, what is quantized takes its place.
    parts = [(model.decoder, model.tensors())] if quantize_part is None else model.parts()
    try:
        with Reader(device) as reader:
            for part, targets in parts:
                reader.read([(places[name], target) for name, target in targets.items()])
                if part is model.decoder and config.tied_embeddings and HEAD in files:
                    _check_tied_head(path, files[HEAD], targets[EMBEDDING], reader)
                targets.clear()  # no view may keep what is replaced
                if quantize_part is not None:
                    quantize_part(part)
    except (OSError, EOFError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors: {error}") from error
    seconds = round(time.monotonic() - began_s, 3)
    logger.info("weights read", extra={"fields": {"seconds": seconds}})
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
        with _opened(path / file) as shard:
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


def _places(
    path: Path, files: dict[str, tuple[str, str]], targets: dict[str, Tensor]
) -> dict[str, Source]:
    """Where each of our tensors is read from, once its shape and type were found right."""
    places: dict[str, Source] = {}
    for file in sorted({file for file, _ in files.values()}):
        in_file = sources(path / file)
        names = {ours: theirs for ours, (f, theirs) in files.items() if f == file}
        with _opened(path / file) as shard:
            for ours, theirs in names.items():
                if ours in targets:
                    _check_tensor(path / file, shard, theirs, targets[ours])
                    places[ours] = in_file[theirs]
    return places


def _check_tensor(file: Path, shard: Any, name: str, target: Tensor) -> None:
    shape = tuple(shard.get_slice(name).get_shape())
    if shape != tuple(target.shape):
        raise CheckpointError(
            f"{file}: tensor {name} has shape {list(shape)}, "
            f"config.json asks for {list(target.shape)}"
        )
    if shard.get_slice(name).get_dtype() not in DTYPES:
        dtype = shard.get_tensor(name).dtype
        raise CheckpointError(f"{file}: tensor {name} is {dtype}, not floating point")


def _check_tied_head(path: Path, where: tuple[str, str], embedding: Tensor, reader: Reader) -> None:
    """A stored head must be the embedding it is tied to, or one of the two would be ignored."""
    file, name = where
    with _opened(path / file) as shard:
        same = tuple(shard.get_slice(name).get_shape()) == tuple(embedding.shape)
    place = sources(path / file).get(name)
    if same and place is not None:
        head = torch.empty_like(embedding)
        reader.read([(place, head)])
        same = torch.equal(head, embedding)
    if not same or place is None:
        raise CheckpointError(
            f"{path / file}: tensor {name} differs from the embedding, "
            "though config.json ties them (tie_word_embeddings)"
        )


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as shard:
            yield shard
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: not readable as safetensors: {error}") from error
