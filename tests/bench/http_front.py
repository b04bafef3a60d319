"""One of several fronts of the HTTP benchmark: the server's own, with made-up words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from predictor import front
from tests.bench.http_server import arrange, speak_made_up_words, stand_in_for_codecs
from tests.bench.load import Shares


def main() -> None:
    stand_in_for_codecs()
    speak_made_up_words()
    from predictor.engine import EngineClient
    from predictor.service.loading import MakeEngine, join_engines

    shares, engines = Shares(), list[EngineClient]()

    def join(addresses: Sequence[Path]) -> MakeEngine:
        def observed(settings: Any, folder: Path, on_step: Any, on_lost: Any) -> Any:
            def observe(step: Any) -> None:
                shares.add(step)
                on_step(step)

            made = join_engines(addresses)(settings, folder, observe, on_lost)
            engines.append(made.client)
            return made

        return observed

    front.main(join, lambda server: arrange(server, shares, engines, server.place.num_fronts))


if __name__ == "__main__":
    main()
