"""Shards by audio seconds."""

from __future__ import annotations

import random

from pipelines.lib.manifest import Clip
from pipelines.lib.sharding import shard


def test_shards_are_about_equally_long_and_together_everything() -> None:
    rng = random.Random(0)
    clips = [Clip(str(i), f"/{i}.wav", "x", duration_s=rng.expovariate(1 / 30)) for i in range(400)]
    clips.append(Clip("unknown", "/u.wav", "x"))
    parts = [shard(clips, i, 7) for i in range(7)]
    assert sorted(c.id for part in parts for c in part) == sorted(c.id for c in clips)
    seconds = [sum(c.duration_s or 10 for c in part) for part in parts]
    assert max(seconds) / min(seconds) < 1.05
    assert parts == [shard(clips, i, 7) for i in range(7)]


def test_one_shard_is_everything_in_order() -> None:
    clips = [Clip(str(i), f"/{i}.wav", "x", duration_s=float(i)) for i in range(9)]
    assert shard(clips, 0, 1) == clips
