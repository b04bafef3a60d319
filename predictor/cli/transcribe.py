"""`qwen3-asr transcribe`: recordings to text and subtitles, with or without a service."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from predictor.cli.arguments import (
    add_checkpoint,
    add_recordings,
    api_key,
    base_of,
    check_folder_out,
    command_parser,
    language,
    seconds,
    service_url,
    text,
    whole,
)
from predictor.cli.checkpoint import settings_for
from predictor.cli.errors import FAILED, OK, CliError
from predictor.cli.formats import FORMATS, SUBTITLES, as_json
from predictor.cli.progress import Progress
from predictor.cli.recognizer import Recognizer, RecordingError
from predictor.cli.recordings import BUNDLED, Found, check_names, find

if TYPE_CHECKING:
    from predictor.text.cue_lines import SubtitleOptions
    from predictor.types import Transcription

# What protects a server from its callers: here a day's recording may take a day.
_PATIENT = ("request_timeout_s=86400", "max_audio_s=86400", "max_body_bytes=1073741824")
_ABOUT = """\
Transcribe recordings: files, folders, or - for standard input.

  qwen3-asr transcribe --checkpoint /models/Qwen3-ASR-0.6B talk.mp3
  qwen3-asr transcribe --url http://localhost:8080 calls/ --recursive --out texts --format txt,srt
  ffmpeg -i talk.mkv -f wav - | qwen3-asr transcribe --checkpoint tiny -

Without --out the text goes to standard output. With --out each recording gets its files there; a
run that is started again goes on with those that have none yet. An API key for --url is taken from
ASR_API_KEY.
"""


@dataclass(frozen=True, slots=True)
class _Output:
    """Where texts go, and in which forms."""

    folder: Path | None  # None: standard output
    formats: Sequence[str]
    cues: SubtitleOptions | None

    def text(self, form: str, answer: Transcription) -> str:
        """A whole file."""
        return FORMATS[form](answer, self.cues)


@dataclass(slots=True)
class _Tally:
    """What a run has done so far."""

    failed: list[str] = field(default_factory=list)
    answers: dict[int, Transcription] = field(default_factory=dict)  # that wait for their turn
    next_shown: int = 0


def run(argv: list[str]) -> int:
    """Transcribe; exit code 1 when a recording failed."""
    args = _parser().parse_args(argv)
    formats = _formats(args.format)
    recordings = find(args.inputs or _demo(args), recursive=args.recursive)
    if args.out is not None:
        check_names(recordings)
        check_folder_out(args.out)
        missing = [r for r in recordings if args.overwrite or not _is_done(r, args.out, formats)]
        if len(missing) < len(recordings):
            _note(f"{len(recordings) - len(missing)} of {len(recordings)} are done already")
        recordings = missing
    elif len(formats) > 1 or (len(recordings) > 1 and formats[0] not in ("txt", "json")):
        raise CliError("several recordings or formats need --out FOLDER")
    if not recordings:
        return OK
    with _recognizer(args, formats) as recognizer:
        output = _Output(args.out, formats, recognizer.cues)
        failed = _run_all(recognizer, recordings, output, args.jobs)
    return FAILED if failed else OK


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("transcribe", _ABOUT)
    add = parser.add_argument
    add_recordings(parser, "FILE|DIR|-", "recordings in any supported format")
    add("--demo", action="store_true", help="the recordings that are part of the package")
    add_checkpoint(parser)
    add("--url", type=service_url, help="ask this service instead of loading a checkpoint here")
    add("--model", type=text, default="qwen3-asr", help="with --url: the model's name there")
    add("--timeout", type=seconds, default=600.0, help="with --url: seconds for one recording")
    add("--format", default="txt", help="txt, json, srt, vtt, tsv; several with commas")
    add("--out", type=Path, metavar="FOLDER", help="write files here")
    add("--overwrite", action="store_true", help="also those that are done already")
    add("--recursive", action="store_true", help="folders below the given ones too")
    add("--language", type=language, help="a name or code such as English or zh (default: detect)")
    add("--context", type=text, default="", help="hot words, or any text that helps")
    add("--jobs", type=whole(1, 1000), default=4, help="recordings at a time (default 4)")
    return parser


def _formats(given: str) -> list[str]:
    formats = [name.strip() for name in given.split(",") if name.strip()]
    for name in formats:
        if name not in FORMATS:
            raise CliError(f"--format {name}: is not one of {', '.join(FORMATS)}")
    if not formats:
        raise CliError("--format: give at least one")
    return formats


def _demo(args: argparse.Namespace) -> list[str]:
    if not args.demo:
        raise CliError("no recordings given: FILE, DIR, - for standard input, or --demo")
    return [str(BUNDLED)]


def _recognizer(args: argparse.Namespace, formats: Sequence[str]) -> Recognizer:
    if args.url is not None:
        from predictor.cli.remote import RemoteRecognizer

        return RemoteRecognizer(
            base_of(args.url),
            model=args.model,
            api_key=api_key(),
            language=args.language,
            context=args.context,
            timeout_s=args.timeout,
        )
    settings = settings_for(args.checkpoint, [*_PATIENT, *args.set])
    if sys.stderr.isatty():
        _note("loading the checkpoint ...")
    from predictor.cli.local import LocalRecognizer

    for_cues = any(form in SUBTITLES for form in formats)
    return LocalRecognizer(
        settings, language=args.language, context=args.context, for_cues=for_cues
    )


def _run_all(
    recognizer: Recognizer,
    recordings: Sequence[Found],
    output: _Output,
    num_jobs: int,
) -> list[str]:
    """The names of those that failed. No more than `num_jobs` are in memory."""
    progress = Progress(len(recordings), sum(r.num_bytes for r in recordings))
    tally = _Tally()
    waiting = iter(enumerate(recordings))
    running: dict[Future[Transcription], int] = {}

    def one(index: int, recording: Found) -> Transcription:
        def told(done_s: float, stated_s: float | None) -> None:
            progress.heard(index, recording.num_bytes, done_s, stated_s)

        return recognizer.transcribe(recording.read(), recording.name.name, told)

    progress.begin()
    pool = ThreadPoolExecutor(num_jobs)
    try:
        while True:
            while len(running) < num_jobs and (item := next(waiting, None)) is not None:
                running[pool.submit(one, *item)] = item[0]
            if not running:
                break
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                index = running.pop(done)
                _finish(recordings[index], index, done, output, tally, progress)
                if output.folder is None:
                    _show(recordings, output, tally, progress)
    finally:  # Ctrl-C must not wait for hours that are under way
        pool.shutdown(wait=False, cancel_futures=True)
    progress.close()
    return tally.failed


def _finish(
    recording: Found,
    index: int,
    done: Future[Transcription],
    output: _Output,
    tally: _Tally,
    progress: Progress,
) -> None:
    try:
        answer = done.result()
        if output.folder is not None:
            _write(recording, answer, output.folder, output)
        else:
            tally.answers[index] = answer
    except (RecordingError, OSError) as error:
        tally.failed.append(recording.shown)
        progress.say(f"{recording.shown}: {error}")
        progress.add(recording.num_bytes, 0.0, failed=True, key=index)
        return
    progress.add(recording.num_bytes, answer.duration_s, key=index)


def _show(recordings: Sequence[Found], output: _Output, tally: _Tally, progress: Progress) -> None:
    """To standard output, in the order in which they were given."""
    [form] = output.formats
    failed = set(tally.failed)
    while tally.next_shown < len(recordings):
        recording = recordings[tally.next_shown]
        answer = tally.answers.pop(tally.next_shown, None)
        if answer is None and recording.shown not in failed:
            return
        tally.next_shown += 1
        if answer is None:
            continue
        shown = output.text(form, answer)
        if len(recordings) > 1:
            line = {"file": recording.shown, **as_json(answer)}
            shown = f"{recording.shown}: {answer.text}\n"
            if form == "json":
                shown = json.dumps(line, ensure_ascii=False) + "\n"
        progress.clear()
        sys.stdout.write(shown)
        sys.stdout.flush()


def _target(recording: Found, out: Path, form: str) -> Path:
    return out / recording.name.parent / f"{recording.name.name}.{form}"


def _is_done(recording: Found, out: Path, formats: Sequence[str]) -> bool:
    return recording.path is not None and all(_target(recording, out, f).exists() for f in formats)


def _write(recording: Found, answer: Transcription, folder: Path, output: _Output) -> None:
    """Each file is there whole or not at all. Raises OSError."""
    for form in output.formats:
        target = _target(recording, folder, form)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.part")
        partial.write_text(output.text(form, answer), encoding="utf-8")
        partial.replace(target)


def _note(said: str) -> None:
    sys.stderr.write(said + "\n")
