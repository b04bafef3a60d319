"""`qwen3-asr serve`: as `python -m predictor`."""

from __future__ import annotations

import sys


def run(argv: list[str]) -> int:
    """Serve until told to stop; `argv` are settings as flags. Ends by SystemExit on errors."""
    from predictor.__main__ import main

    sys.argv[1:] = argv
    main()
    return 0
