"""Made-up schedules and what robfig/cron 1.2 says of them; needs Go.

    python -m tests.pipelines.cron_oracle.ask --out tests/pipelines/results/cron.json

The answers are kept, so that the tests need no Go.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipelines.cron import DESCRIPTORS, FIELDS

HERE = Path(__file__).parent
BEGIN, SECONDS = datetime(2024, 1, 1, tzinfo=UTC), 4 * 365 * 86400
STEPS = ("1", "2", "3", "5", "7", "15", "30", "100")
FIVE = {"spec": "0 3 * * *", "after": "2026-11-30T02:00:00Z"}  # what cron means by 3 in the morning
WRONG = ("x", "99", "-1", "?1", "7")  # the last is no weekday there


def schedules(number: int, seed: int = 1) -> list[dict[str, str]]:
    """Six fields each, now and then a name or a mistake, and a time to begin at."""
    rng = random.Random(seed)
    found = []
    for _ in range(number):
        spec = " ".join(_field(rng, *field) for field in FIELDS)
        if rng.random() < 0.05:
            spec = rng.choice([*DESCRIPTORS, "@sometimes"])
        after = BEGIN + timedelta(seconds=rng.randint(0, SECONDS))
        found.append({"spec": spec, "after": f"{after:%Y-%m-%dT%H:%M:%SZ}"})
    return found


def _field(rng: random.Random, name: str, low: int, high: int, names: list[str]) -> str:
    def value(least: int = low) -> str:
        number = rng.randint(least, high)
        if names and rng.random() < 0.3:
            return rng.choice([str.upper, str.lower, str.title])(names[number - low])
        return f"{number:02d}" if rng.random() < 0.1 else str(number)

    def part() -> str:
        kind = rng.random()
        if kind < 0.02:
            return rng.choice(WRONG)
        if kind < 0.45:
            text = rng.choice("***?")
        elif kind < 0.75:
            text = value()
        else:
            first = rng.randint(low, high)
            text = f"{first}-{value(first if rng.random() < 0.9 else low)}"
        return f"{text}/{rng.choice(STEPS)}" if rng.random() < 0.25 else text

    return ",".join(part() for _ in range(rng.choice([1, 1, 1, 2, 3])))


def ask(asked: list[dict[str, str]]) -> list[dict[str, object]]:
    """What the parser says, in order."""
    lines = "\n".join(json.dumps(each) for each in asked)
    done = subprocess.run(
        ["go", "run", "."], cwd=HERE, input=lines, capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--out", type=Path, required=True)
    parsed = parser.parse_args()
    answers = ask([FIVE, *schedules(parsed.number)])
    rows = ",\n".join(f"  {json.dumps(answer)}" for answer in answers)
    text = f'{{\n "parser": "github.com/robfig/cron v1.2.0",\n "answers": [\n{rows}\n ]\n}}\n'
    parsed.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
