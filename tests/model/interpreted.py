"""Runs Triton kernels on the CPU: import it before Triton itself, in a fresh process.

8-bit floats are rounded as torch rounds them: the interpreter's own way loses carries.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

from typing import Any

import numpy as np
import torch
import triton.language as tl
import triton.runtime.interpreter as interpreter

_patch = interpreter._patch_lang_tensor


def _patch_for_new_numpy(tensor: Any, scope: Any) -> None:
    """As Triton's, but loop bounds of one element also convert under numpy 2.4 and later."""
    _patch(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


interpreter._patch_lang_tensor = _patch_for_new_numpy

_convert = interpreter._convert_float


def _convert_as_torch(values: Any, from_type: Any, to_type: Any, rounding: Any) -> Any:
    """As Triton's; NaN comes of what is beyond the range of 8 bits, as it does in torch."""
    if (from_type, to_type) != (tl.float32, tl.float8e4nv):
        return _convert(values, from_type, to_type, rounding)
    floats = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    return floats.to(torch.float8_e4m3fn).view(torch.uint8).numpy().reshape(np.shape(values))


interpreter._convert_float = _convert_as_torch
