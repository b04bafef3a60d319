"""Small changes to built objects, to break a rule with."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from tests.manifests.objects import Object, of_kind

Objects = list[Object]
Change = Callable[[Objects], None]
Rule = Callable[[Objects], Iterable[str]]
Case = tuple[str, Change, str]  # rule, what breaks it, what the finding must say


def isvc(objects: Objects) -> Any:
    return of_kind(objects, "InferenceService")[0]


def predictor(objects: Objects) -> Any:
    return isvc(objects)["spec"]["predictor"]


def container(objects: Objects) -> Any:
    return of_kind(objects, "ServingRuntime")[0]["spec"]["containers"][0]


def isvc_annotations(objects: Objects) -> Any:
    return isvc(objects)["metadata"]["annotations"]


def kind(objects: Objects, name: str) -> Any:
    return of_kind(objects, name)[0]


def put(where: Callable[[Objects], Any], key: Any, value: Any) -> Change:
    def change(objects: Objects) -> None:
        where(objects)[key] = value

    return change


def drop(where: Callable[[Objects], Any], key: Any) -> Change:
    def change(objects: Objects) -> None:
        del where(objects)[key]

    return change


def account(objects: Objects) -> Any:
    """The predictor's service account."""
    named = {each["metadata"]["name"]: each for each in of_kind(objects, "ServiceAccount")}
    return named["qwen3-asr"]


def dig(where: Callable[[Objects], Any], *keys: Any) -> Callable[[Objects], Any]:
    def found(objects: Objects) -> Any:
        node = where(objects)
        for key in keys:
            node = node[key]
        return node

    return found


def ids(cases: list[Case]) -> list[str]:
    return [f"{name}: {expected}" for name, _, expected in cases]


def rules_of(module: ModuleType) -> set[str]:
    """Names of a module's rules: its public generators that look at objects."""
    return {
        name
        for name, each in vars(module).items()
        if inspect.isgeneratorfunction(each)
        and each.__module__ == module.__name__
        and not name.startswith("_")
    }


def breaks(check: Rule, objects: Objects, case: Case) -> None:
    """The rule holds for the objects and not for the changed ones, with the finding expected."""
    _, change, expected = case
    assert list(check(objects)) == []
    broken = copy.deepcopy(objects)
    change(broken)
    found = list(check(broken))
    assert any(expected in problem for problem in found), found
