"""A supervised process for tests: it does what its greeting says for each of its starts.

`["fine", "hang"]`: the first one loads and says so now and then, the second never loads. `silent`
loads and says nothing; `level` tells the level that it logs from, whenever that changes.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import time
from pathlib import Path

from predictor.logs import configure_logging


def main() -> None:
    parent = socket.socket(fileno=int(sys.argv[1]))
    greeting = json.loads(parent.recv(4096))
    starts = Path(greeting["starts"])
    number = len(starts.read_text(encoding="utf-8")) if starts.exists() else 0
    with starts.open("a", encoding="utf-8") as file:
        file.write("x")
    kind = greeting["kinds"][number]
    configure_logging("json", "info")
    if kind == "hang":
        time.sleep(600)
    parent.sendall(b"loaded")
    parent.settimeout(0.05)
    told = logging.INFO
    while True:
        try:
            if not parent.recv(1):
                return
        except TimeoutError:
            if kind == "fine":
                parent.sendall(b".")
        if (level := logging.getLogger().level) != told:
            told = level
            with starts.with_suffix(".level").open("a", encoding="utf-8") as file:
                file.write(f"{logging.getLevelName(level)}\n")


if __name__ == "__main__":
    main()
