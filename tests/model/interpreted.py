"""Runs Triton kernels on the CPU: import it before Triton itself, in a fresh process."""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

from typing import Any

import triton.runtime.interpreter as interpreter

_patch = interpreter._patch_lang_tensor


def _patch_for_new_numpy(tensor: Any, scope: Any) -> None:
    """As Triton's, but loop bounds of one element also convert under numpy 2.4 and later."""
    _patch(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


interpreter._patch_lang_tensor = _patch_for_new_numpy
