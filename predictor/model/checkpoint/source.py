"""Where a checkpoint comes from: a folder, or the hub. No torch here: a server whose engine runs
in a process of its own never imports it for this."""

from __future__ import annotations

from pathlib import Path

from predictor.model.config import CheckpointError

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
