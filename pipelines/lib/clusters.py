"""Which recordings vary together: an interval is only as true as its clusters.

Recordings of one speaker are alike; counted as independent they make an interval too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.lib.errors import OptionError
from pipelines.lib.manifest import Clip

AUTO, CLIP, SPEAKER = "auto", "clip", "speaker"
SESSION_TAGS = ("session", "session_id", "conversation", "recording_id", "call")


@dataclass(frozen=True, slots=True)
class Clustering:
    """The unit of clusters, and what is taken for granted by it."""

    unit: str  # "clip", "speaker" or a tag
    assumes: str  # a sentence for the report

    def of(self, clip: Clip) -> str:
        """A recording's cluster; OptionError when it does not say its own."""
        if self.unit == CLIP:
            return clip.id
        found = (clip.speaker,) if self.unit == SPEAKER else clip.tags.get(self.unit)
        if (not found or not found[0]) and clip.text == "":
            return clip.id  # nobody speaks, so nobody is named
        if not found or not found[0]:
            raise OptionError(
                f"cluster_by: {self.unit!r}, but clip {clip.id!r} does not say its own"
            )
        return found[0]

    def as_json(self) -> dict[str, Any]:
        return {"unit": self.unit, "assumes": self.assumes}


def choose_clustering(clips: Sequence[Clip], cluster_by: str) -> Clustering:
    """What was asked for, or with "auto" the widest unit that every recording names."""
    if cluster_by in ("", AUTO):
        cluster_by = _widest(clips)
    if cluster_by == CLIP:
        why = "" if _named(clips, SPEAKER) else " (no recording names its speaker)"
        return Clustering(
            CLIP,
            f"recordings are taken as independent{why}; with several of one speaker the intervals "
            "are too narrow",
        )
    return Clustering(
        cluster_by, f"recordings of one {cluster_by} vary together, different ones do not"
    )


def _widest(clips: Sequence[Clip]) -> str:
    if _all_named(clips, SPEAKER):
        return SPEAKER
    return next((tag for tag in SESSION_TAGS if _all_named(clips, tag)), CLIP)


def _all_named(clips: Sequence[Clip], unit: str) -> bool:
    spoken = [clip for clip in clips if clip.text != ""]
    return bool(spoken) and all(_name(clip, unit) for clip in spoken)


def _named(clips: Sequence[Clip], unit: str) -> bool:
    return any(_name(clip, unit) for clip in clips)


def _name(clip: Clip, unit: str) -> str | None:
    return clip.speaker if unit == SPEAKER else next(iter(clip.tags.get(unit, ())), None)
