"""The figures of live speech on the embedded checkpoint, as JSON: errors, delays, cost.

    python -m tests.live.figures --out tests/live/results/cpu.json [--seconds 222] [--step 0.5]

Time is the audio's; what computing takes is left out. Errors are words of English and characters
of Chinese.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from predictor.audio.vad import load_detector
from predictor.engine import EngineClient, build_engine
from predictor.engine.options import EngineOptions
from predictor.live.events import Completed, Partial
from predictor.live.options import SessionConfig
from predictor.live.steps import Step
from predictor.text.prompt import PromptBuilder
from predictor.text.tokenizer import TextTokenizer
from tests.bench.environment import describe
from tests.live.play import (
    Played,
    Studio,
    delays_s,
    endpoint_delays_s,
    erasure,
    play_all,
)
from tests.live.streams import RATE, Stream, alone, clips, conversations
from tests.tiny.evaluate import edits, units

CHECKPOINT = Path(__file__).parents[2] / "predictor" / "checkpoints" / "tiny"
# What must be reached, in percent, seconds and tokens; see `judge`.
GOALS = {
    "error %": 1.0,
    "shown p50 s": 0.25,
    "shown p90 s": 0.5,
    "committed p50 s": 0.8,
    "committed p90 s": 1.0,
    "endpoint p95 s": 0.75,
    "characters taken back": 0,
    "erasure": 0.05,
    "prefill p95 tokens": 130,
    "decoded mean tokens": 4.5,
    "decoded p99 tokens": 16,
    "wrong languages": 0,
}


def measure(
    studio: Studio, engine: EngineClient, streams: list[Stream], **more: Any
) -> dict[str, Any]:
    """The figures of these streams together."""
    plays = play_all(studio, engine, streams, **more)
    wrong = total = 0
    for stream, played in zip(streams, plays, strict=True):
        reference = [unit for language, text in stream.parts for unit in units(text, language)]
        heard = [
            unit for e in played.of(Completed) for unit in units(e.text, e.language or "English")
        ]
        wrong += edits(reference, heard)[0]
        total += len(reference)
    pairs = list(zip(streams, plays, strict=True))
    shown = [d for s, p in pairs for d in delays_s(s, p, committed=False)]
    committed = [d for s, p in pairs for d in delays_s(s, p, committed=True)]
    ends = [d for s, p in pairs for d in endpoint_delays_s(s, p)]
    steps = [ran for played in plays for ran in played.steps]
    prefill = [len(r.step.forced) + len(r.step.draft) + r.outcome.num_prompt_tokens for r in steps]
    decoded = [len(r.outcome.tokens) - r.outcome.num_accepted for r in steps]
    return {
        "streams": [stream.name for stream in streams] if len(streams) < 9 else len(streams),
        "audio s": round(sum(s.duration_s for s in streams)),
        "units": total,
        "utterances": sum(len(p.of(Completed)) for p in plays),
        "steps": len(steps),
        "error %": round(100 * wrong / total, 2),
        "shown p50 s": _quantile(shown, 0.5),
        "shown p90 s": _quantile(shown, 0.9),
        "committed p50 s": _quantile(committed, 0.5),
        "committed p90 s": _quantile(committed, 0.9),
        "endpoint p50 s": _quantile(ends, 0.5),
        "endpoint p95 s": _quantile(ends, 0.95),
        "characters taken back": sum(map(_taken_back, plays)),
        "erasure": round(float(np.mean([erasure(p) for p in plays])), 3),
        "prefill p95 tokens": _quantile(prefill, 0.95),
        "decoded mean tokens": round(float(np.mean(decoded)), 2),
        "decoded p99 tokens": _quantile(decoded, 0.99),
        "accepted share of drafts": round(
            sum(r.outcome.num_accepted for r in steps)
            / max(1, sum(len(r.step.draft) for r in steps)),
            3,
        ),
        "wrong languages": sum(_wrong_languages(s, p) for s, p in pairs),
    }


def judge(figures: dict[str, Any], **other: float) -> list[str]:
    """The goals that are missed; `other` ones stand in for some."""
    goals = GOALS | other
    return [f"{name}: {figures[name]} > {goal}" for name, goal in goals.items()
            if figures[name] > goal]  # fmt: skip


def flatness(studio: Studio, engine: EngineClient, rounds: int) -> dict[str, Any]:
    """What each of so many rounds of the same minute of talk costs."""
    [talk] = conversations(57.0)[:1]
    period = (len(talk.samples) // 512 + 32) * 512  # ends in silence, on a frame
    minute = np.zeros(period, np.float32)
    minute[: len(talk.samples)] = talk.samples
    whole = Stream("rounds", np.tile(minute, rounds), (), ())
    [played] = play_all(studio, engine, [whole])
    rows = []
    for number in range(1, rounds + 1):
        steps = [r for r in played.steps if math.ceil(r.at_s * RATE / period - 1e-9) == number]
        rows.append(
            {
                "round": number,
                "steps": len(steps),
                "encoded s": round(sum(_open_s(r.step) for r in steps), 1),
                "prefilled tokens": sum(
                    r.outcome.num_prompt_tokens + len(r.step.forced) + len(r.step.draft)
                    for r in steps
                ),
                "decoded tokens": sum(
                    len(r.outcome.tokens) - r.outcome.num_accepted for r in steps
                ),
                "cpu s": round(sum(r.cpu_s for r in steps), 2),
            }
        )
    return {"round s": round(period / RATE, 1), "rounds": rounds, "rows": rows}


WINDOW_S = 8.0


def _open_s(step: Step) -> float:
    """Seconds of audio that a step encodes: the windows that were not closed before."""
    heard_s = len(step.samples) / RATE
    known = max(0, step.num_heard - 40) // round(WINDOW_S * RATE)
    return heard_s - known * WINDOW_S


COLUMNS = (
    "error %", "shown p50 s", "shown p90 s", "committed p50 s", "committed p90 s",
    "endpoint p50 s", "endpoint p95 s", "prefill p95 tokens", "decoded mean tokens",
)  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """The README's table of a result file."""
    lines = [
        "| set | step | error | word shown, p50 / p90 | word committed | pause to end, p50 / p95 | "
        "tokens a step: prefill p95 / decoded mean |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        error, *rest = (row[name] for name in COLUMNS)
        shown, shown90, kept, kept90, end, end95, prefill, decoded = rest
        lines.append(
            f"| {row['set']}, {row['audio s']} s | {row['step s']} s | {error} % "
            f"| {shown} / {shown90} s | {kept} / {kept90} s | {end} / {end95} s "
            f"| {prefill:g} / {decoded} |"
        )
    flat = result["flatness"]
    cost = [row["prefilled tokens"] + row["decoded tokens"] for row in flat["rows"]]
    lines += [
        "",
        f"The same {flat['round s']} s of talk, {flat['rounds']} times in one stream: {cost[0]} "
        f"tokens in the first round, {cost[-1]} in the last, {min(cost)} to {max(cost)} in all.",
    ]
    if "cpu s" in flat["rows"][0]:
        tenth = max(1, flat["rounds"] // 10)
        spent = [row["cpu s"] for row in flat["rows"]]
        first, last = (np.median(part) for part in (spent[:tenth], spent[-tenth:]))
        lines[-1] += (
            f" Processor time of a round's steps: {first:.2f} s in the first tenth of the rounds, "
            f"{last:.2f} s in the last (medians)."
        )
    return "\n".join(lines)


def _taken_back(played: Played) -> int:
    said: dict[int, str] = {}
    for event in played.of(Partial):
        said[event.item] = said.get(event.item, "") + event.delta
    return sum(
        len(said.get(e.item, "")) for e in played.of(Completed)
        if not e.text.startswith(said.get(e.item, ""))
    )  # fmt: skip


def _wrong_languages(stream: Stream, played: Played) -> int:
    spoken = {language for language, _ in stream.parts}
    return sum(e.language not in spoken for e in played.of(Completed) if e.text)


def _quantile(values: list[Any], share: float) -> float:
    return round(float(np.quantile(values, share)), 2) if values else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=222.0, help="of each conversation")
    parser.add_argument(
        "--steps", type=float, nargs="*", default=[0.5], help="without any the file keeps its rows"
    )
    parser.add_argument("--minutes", type=int, default=60, help="of the stream that shows flatness")
    args = parser.parse_args()
    torch.set_num_threads(1)
    environment = describe() | {"load average": round(os.getloadavg()[0], 1)}
    options = EngineOptions(max_num_seqs=16, max_model_len=1024)
    engine = EngineClient([build_engine(CHECKPOINT, "cpu", "float32", options)])
    engine.start()
    tokenizer = TextTokenizer.load(CHECKPOINT)
    studio = Studio(PromptBuilder(tokenizer, 512), tokenizer, load_detector("silero"))
    names = sorted(clips())
    rows = []
    for step_s in args.steps:
        config = SessionConfig(step_s=step_s)
        sets = {
            "conversations": conversations(args.seconds),
            "short English": [alone(n) for n in names if n.startswith("en-short")],
            "short Chinese": [alone(n) for n in names if n.startswith("zh-short")],
            "long English": [alone(n) for n in names if n.startswith("en-long")],
            "long Chinese": [alone(n) for n in names if n.startswith("zh-long")],
        }
        for name, streams in sets.items():
            row = {"set": name, "step s": step_s, **measure(studio, engine, streams, config=config)}
            rows.append(row)
            print(json.dumps(row), flush=True)
    flat = flatness(studio, engine, args.minutes) if args.minutes > 1 else None
    print(json.dumps(flat), flush=True)
    engine.stop()
    if args.out:
        result = json.loads(args.out.read_text("utf-8")) if args.out.exists() else {}
        if rows:
            result |= {"environment": environment, "rows": rows}
        if flat:
            result["flatness"] = {"environment": environment, **flat}
        args.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
