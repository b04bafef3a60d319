"""`python -m predictor`: read the settings, then serve."""

from __future__ import annotations

import gc
import logging
import os
import sys

from predictor.errors import InvalidInput
from predictor.logs import configure_logging
from predictor.model.checkpoint.readahead import read_ahead
from predictor.settings.doc import effective
from predictor.settings.fields import Settings
from predictor.settings.read import SettingsError, load_settings
from predictor.text.languages import parse_language

logger = logging.getLogger("predictor")


def main() -> None:
    """Serve until told to stop; exits 2 on bad settings, 1 when the model cannot be loaded."""
    try:
        settings = load_settings(sys.argv[1:], os.environ)
        parse_language(settings.language)
    except (SettingsError, InvalidInput) as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from error
    configure_logging(settings.log_format, settings.log_level)
    _log_settings(settings)
    # What imports leave behind stays: looking through it for garbage takes a fifth of their time.
    gc.disable()
    # Threads of torch that wait burn a core each, unless told before torch is there.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if settings.model_dir is not None:
        read_ahead(settings.model_dir)
    from predictor.service.loading import Loading  # torch at most, and nothing of the web

    loading = Loading(settings)
    # KServe parses sys.argv while it is imported: by then our flags are read and gone.
    sys.argv[1:] = []
    from predictor.server import build_server

    try:
        server = build_server(settings, loading=loading)
        gc.freeze()
        gc.enable()
        server.start()
    except Exception as error:
        logger.critical("the server cannot go on: %s", error, exc_info=error)
        if not loading.done():
            os._exit(1)  # the thread would be torn down while it works
        raise SystemExit(1) from error


def _log_settings(settings: Settings) -> None:
    values = {name: f"{value} ({source})" for name, value, source in effective(settings)}
    logger.info("settings", extra={"fields": {"settings": values}})
    for note in settings.notes:
        logger.warning(note)


if __name__ == "__main__":
    main()
