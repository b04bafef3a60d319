"""What an InferenceService's status says: predicates to wait for, and what they read.

Each is judged by what the controller made of a change and not by status.observedGeneration, which
counts the Knative service's changes (kserve/kserve 6081). The status may show the end of a move
before the traffic is there: who needs more asks the answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.manifests.objects import MODE

Object = dict[str, Any]
Holds = Callable[[Object], bool]


def predictor_status(service: Object) -> Object:
    found: Object = service.get("status", {}).get("components", {}).get("predictor", {})
    return found


def conditions(service: Object) -> dict[str, str]:
    """Status of each condition by its type."""
    listed = service.get("status", {}).get("conditions", [])
    return {each["type"]: each["status"] for each in listed}


def messages(service: Object) -> str:
    """What the conditions that are not met say."""
    listed = service.get("status", {}).get("conditions", [])
    return " ".join(each.get("message", "") for each in listed if each["status"] != "True")


def is_ready(service: Object) -> bool:
    """Ready, and on Knative the newest revision is the one that is."""
    if conditions(service).get("Ready") != "True":
        return False
    annotations = service.get("metadata", {}).get("annotations", {})
    return annotations.get(MODE) == "Standard" or newest(service) is not None


def newest(service: Object) -> str | None:
    """Name of the newest revision once it is ready; None while it is not."""
    status = predictor_status(service)
    created = status.get("latestCreatedRevision")
    return created if created and created == status.get("latestReadyRevision") else None


def revisions(service: Object) -> set[str]:
    """Those that the status knows: the newest, and all that have an address or traffic."""
    return {each["revisionName"] for each in traffic(service)} | {str(newest(service))}


def traffic(service: Object) -> list[Object]:
    """Knative's traffic targets: revisionName, percent, tag, url, latestRevision."""
    targets: list[Object] = predictor_status(service).get("traffic", [])
    return targets


def split(service: Object) -> dict[str, int]:
    """Percent of the traffic by revision; the same revision may be a target twice."""
    shares: Counter[str] = Counter()
    for target in traffic(service):
        shares[target["revisionName"]] += target.get("percent") or 0
    return {name: percent for name, percent in shares.items() if percent}


def tag_url(service: Object, tag: str) -> str:
    urls = [each["url"] for each in traffic(service) if each.get("tag") == tag]
    if not urls:
        raise LookupError(f"no traffic target with the tag {tag}: {traffic(service)}")
    return str(urls[0])


def dark_beside(stable: str) -> Holds:
    """A newer revision is ready and has an address of its own, and no traffic."""

    def holds(service: Object) -> bool:
        tags = {each.get("tag") for each in traffic(service)}
        is_new = is_ready(service) and newest(service) not in (stable, None)
        return is_new and split(service) == {stable: 100} and {"latest", "prev"} <= tags

    return holds


def shared(shares: dict[str, int]) -> Holds:
    """The traffic is split so, by revision."""
    return lambda service: is_ready(service) and split(service) == shares


def promoted(revision: str) -> Holds:
    """It gets everything, and KServe remembers it as rolled out: what a way back starts from."""

    def holds(service: Object) -> bool:
        rolled_out = predictor_status(service).get("latestRolledoutRevision")
        return shared({revision: 100})(service) and rolled_out == revision

    return holds


def replaced(revisions: set[str]) -> Holds:
    """A revision that is none of these gets everything."""

    def holds(service: Object) -> bool:
        new = newest(service)
        return new is not None and new not in revisions and shared({new: 100})(service)

    return holds
