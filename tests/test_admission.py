"""What a replica holds: seconds of audio come and go, and nothing of them stays."""

from __future__ import annotations

import random
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from predictor.errors import Overloaded
from predictor.metrics import Metrics
from predictor.service.admission import Admission


def admission(max_held_audio_s: float = 10.0) -> Admission:
    return Admission(max_held_audio_s, Metrics(CollectorRegistry()))


@given(
    durations_s=st.lists(st.floats(0.01, 30.0), min_size=1, max_size=20),
    order=st.randoms(use_true_random=False),
)
def test_an_empty_replica_holds_nothing_at_all(
    durations_s: list[float], order: random.Random
) -> None:
    """Sums of floats leave a rest, with which a long recording would be refused for ever."""
    replica = admission(1e6)
    held = []
    for duration_s in durations_s:
        held.append(ExitStack())
        held[-1].enter_context(replica.hold(duration_s))
    order.shuffle(held)
    for each in held:
        each.close()
    assert replica.held_audio_s == 0
    replica.max_held_audio_s = 0.001
    with replica.hold(100.0):
        pass


def test_more_than_the_limit_is_refused_while_others_are_there() -> None:
    replica = admission(10.0)
    with replica.hold(6.0):
        with pytest.raises(Overloaded, match="6 s of audio are waiting or running; 5 s more"):
            replica.hold(5.0).__enter__()
        with replica.hold(4.0):
            assert replica.held_audio_s == 10.0
    assert replica.held_audio_s == 0


def test_what_would_be_refused_is_told_beforehand() -> None:
    replica = admission(10.0)
    replica.check_room()
    with replica.hold(3.0), replica.hold(6.0), pytest.raises(Overloaded):
        replica.check_room()
    with replica.hold(7.0):
        replica.check_room()  # as short a one as came lately would fit
    replica.check_room()
