"""The key that signs webhooks, from what the setting says, as Standard Webhooks write keys."""

from __future__ import annotations

import base64
from typing import Final

_MARK: Final = "whsec_"


def webhook_key(secret: str) -> bytes:
    """Base64 behind `whsec_`, padded or not; any other text is the key as it is.

    Raises ValueError for `whsec_` without base64 behind it, and where no byte is left.
    """
    if not secret.startswith(_MARK):
        key = secret.encode()
    else:
        digits = secret.removeprefix(_MARK).rstrip("=")
        key = base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    if not key:
        raise ValueError("no byte of a key")
    return key
