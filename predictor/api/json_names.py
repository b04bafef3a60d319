"""A field that a JSON body gives twice is refused, as a form's is.

orjson takes the last and says nothing, and the reader that could tell is slow. So names are counted
in the body and in what orjson made of it; only where the numbers differ is the body read again.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from itertools import islice
from typing import Any, Final

from predictor.errors import InvalidInput

_MAX_NAMES: Final = 1000  # a body of more is believed
# A string's last quote, and a colon. First quotes stand behind other signs; a name that ends with
# one of those is not counted.
_NAME_END: Final = re.compile(rb'"(?<![\\,:\[{\s]")[ \t\r\n]*:')


def refuse_repeated(body: bytes | bytearray | memoryview, value: Any) -> None:
    """`value` is what `body` holds. Raises InvalidInput naming a field that is given twice."""
    num_names = sum(1 for _ in islice(_NAME_END.finditer(body), _MAX_NAMES + 1))
    if num_names <= _MAX_NAMES and num_names > _count_names(value):
        with suppress(RecursionError, ValueError):  # nested deeper, or with longer numbers
            json.loads(bytes(body), object_pairs_hook=_once)


def _count_names(root: Any) -> int:
    """Of all objects in `root`."""
    count, todo = 0, [root]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            count += len(value)
            todo += value.values()
        elif isinstance(value, list):
            todo += value
    return count


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise InvalidInput(f"{name[:60]}: given twice", field=name[:60])
        fields[name] = value
    return fields
