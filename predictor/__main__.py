"""`python -m predictor`: read the settings, then serve."""

from __future__ import annotations

import logging
import os
import sys
from typing import Final

from predictor import __version__
from predictor.errors import InvalidInput
from predictor.logs import configure_logging
from predictor.model.config import CheckpointError
from predictor.processes.heap import keep_freed_memory
from predictor.settings.doc import effective
from predictor.settings.fields import Settings
from predictor.settings.preflight import notes, problems
from predictor.settings.read import SettingsError, load_settings
from predictor.startup import begin, importing
from predictor.text.languages import parse_language

logger = logging.getLogger("predictor")

INTERRUPTED: Final = 130


def main() -> None:
    """Serve until told to stop; exits 2 on bad settings, 1 when the model cannot be loaded."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"qwen3-asr {__version__}\n")
        return
    try:
        settings = load_settings(sys.argv[1:], os.environ)
        parse_language(settings.language)
    except (SettingsError, InvalidInput) as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from error
    configure_logging(settings.log_format, settings.log_level)
    _log_settings(settings)
    _check_cheaply(settings)
    begin(settings)
    from predictor.service.engines import num_fronts

    try:
        if num_fronts(settings) > 1:
            from predictor.pod import Pod

            Pod(settings).run()
        else:
            _serve(settings)
    except KeyboardInterrupt:  # while it imports; later it is a signal to stop
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        _give_up(error)
        raise SystemExit(1) from error


def _check_cheaply(settings: Settings) -> None:
    """What would fail after seconds of imports is said before them. Exits 1."""
    found = problems(settings)
    for problem in found:
        logger.critical("the server cannot go on: %s", problem)
    if found:
        raise SystemExit(1)
    for note in notes(settings):
        logger.warning(note)


def _give_up(error: Exception) -> None:
    """A line for what an operator can mend, and the traceback of what is ours to mend."""
    is_plain = isinstance(error, OSError | CheckpointError)
    logger.critical("the server cannot go on: %s", error, exc_info=None if is_plain else error)


def _serve(settings: Settings) -> None:
    """One process that is all there is, but for an engine and decoders of its own."""
    keep_freed_memory()
    with importing():
        from predictor.service.loading import Loading  # torch at most, and nothing of the web

        loading = Loading(settings)
        # KServe parses sys.argv while it is imported: by then our flags are read and gone.
        sys.argv[1:] = []
        from predictor.server import build_server
    try:
        build_server(settings, loading=loading).start()
    except Exception as error:
        if not loading.done():
            _give_up(error)
            os._exit(1)  # the thread would be torn down while it works
        raise


def _log_settings(settings: Settings) -> None:
    values = {name: f"{value} ({source})" for name, value, source in effective(settings)}
    logger.info("settings", extra={"fields": {"settings": values}})
    for note in settings.notes:
        logger.warning(note)


if __name__ == "__main__":
    main()
