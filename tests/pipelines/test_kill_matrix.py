"""A rollout killed at every write in turn, in both modes, with and without its answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipelines.lib.errors import RolloutError
from pipelines.rollout.state import Phase
from tests.pipelines.test_rollout import CANDIDATE, MODES, PLAN, STABLE, Stage, Start
from tests.pipelines.test_rollout import start as start
from tests.pipelines.test_takeover import OTHER, whole

MOST_WRITES = 60


@pytest.mark.parametrize("lost", [False, True], ids=["not written", "written, answer lost"])
@pytest.mark.parametrize("mode", MODES)
class TestKillMatrix:
    """Killed at every write in turn; then whatever comes next finds its way."""

    def killed(self, start: Start, mode: str, lost: bool) -> Iterator[Stage]:
        for writes in range(1, MOST_WRITES):
            stage = start(mode)
            stage.fake.fail_after, stage.fake.lose_answer = writes, lost
            try:
                whole(stage, "run-1")
            except RolloutError:
                assert stage.fake.split() in allowed_splits()
                stage.revive()
                yield stage
            else:
                return
        pytest.fail("it never got through")

    def test_then_status(self, start: Start, mode: str, lost: bool) -> None:
        for stage in self.killed(start, mode, lost):
            status = stage.rollout("look").status()
            if not status:
                assert stage.fake.split() == {STABLE: 100}
                continue
            state = stage.reach().read_state()
            assert state is not None
            assert status["phase"] == state.phase.value
            assert status["driven_by"] is None
            if status["settled"]:
                share = stage.fake.split().get(CANDIDATE, 0)
                assert share == (status["percent"] if status["phase"] != "dark" else 0)

    def test_then_the_same_again(self, start: Start, mode: str, lost: bool) -> None:
        for stage in self.killed(start, mode, lost):
            assert whole(stage, "run-2").promoted
            assert stage.fake.split() == {CANDIDATE: 100}
            shares = stage.shares()
            assert shares == sorted(shares)  # traffic never went back and forth

    def test_then_rollback(self, start: Start, mode: str, lost: bool) -> None:
        for stage in self.killed(start, mode, lost):
            if stage.reach().read_state() is None:
                with pytest.raises(RolloutError, match="there is no rollout"):
                    stage.rollout("back").rollback([])
                continue
            for owner in ("back", "once more"):
                assert stage.rollout(owner).rollback(["it died"]).phase is Phase.ROLLED_BACK
                assert stage.fake.split() == {STABLE: 100}
            assert stage.rollout().status()["settled"]
            assert stage.fake.unready == []
            shares = stage.shares()
            assert shares[:-1] == sorted(shares[:-1])

    def test_then_resume(self, start: Start, mode: str, lost: bool) -> None:
        """Whatever had traffic is promoted by it, also where only the last write is missing."""
        for stage in self.killed(start, mode, lost):
            state = stage.reach().read_state()
            rollout = stage.rollout("resume")
            if state is None:
                with pytest.raises(RolloutError, match="there is no rollout"):
                    rollout.resume()
                continue
            if state.phase is Phase.PROMOTED and state.done:
                with pytest.raises(RolloutError, match="nothing moves"):
                    rollout.resume()
            else:
                assert rollout.resume() is False  # nobody is alive to go on
            if state.phase is Phase.DARK:  # not judged yet: `promote` again
                assert whole(stage, "run-2").promoted
            else:
                assert rollout.shift(state.reasons).promoted
            assert stage.fake.split() == {CANDIDATE: 100}
            assert stage.rollout("look").status()["settled"]

    def test_then_another_candidate(self, start: Start, mode: str, lost: bool) -> None:
        for stage in self.killed(start, mode, lost):
            state = stage.reach().read_state()
            other = stage.rollout("other")
            if state is not None and not state.finished:
                with pytest.raises(RolloutError, match="of another candidate stands at"):
                    other.deploy(stage.candidate(OTHER))
                stage.rollout("back").rollback(["it died"])
            assert other.deploy(stage.candidate(OTHER)) is not None
            assert other.shift([]).promoted
            assert stage.fake.split() == {OTHER: 100}

    def test_then_a_killed_rollback(self, start: Start, mode: str, lost: bool) -> None:
        """The way back is killed at every write too, from the middle and from the end."""
        for phase in ("canary", "promoted"):
            for writes in range(1, MOST_WRITES):
                stage = start(mode)
                rollout = stage.rollout(watcher=None)
                rollout.deploy(stage.candidate())
                if phase == "promoted":
                    rollout.shift([])
                stage.fake.fail_after, stage.fake.lose_answer = writes, lost
                try:
                    stage.rollout("back").rollback(["bad"])
                except RolloutError:
                    stage.revive()
                    again = stage.rollout("again")
                    assert again.rollback(["bad"]).phase is Phase.ROLLED_BACK
                    assert again.status()["settled"]
                    assert stage.fake.split() == {STABLE: 100}
                    assert stage.fake.unready == []
                else:
                    break
            else:
                pytest.fail("it never got through")


def allowed_splits() -> list[dict[str, int]]:
    splits = [{STABLE: 100 - p, CANDIDATE: p} for p in (0, *PLAN.steps)]
    return [{uri: share for uri, share in split.items() if share} for split in splits]
