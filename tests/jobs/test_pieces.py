"""How a job's pieces share the engine with requests: real decoding and admission."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from predictor.audio.decode import AudioDecoder, AudioLimits, AudioOptions, CutOptions
from predictor.errors import NotReady
from predictor.jobs.pieces import PieceRun
from predictor.metrics import Metrics
from predictor.service.admission import Admission
from predictor.text.joining import Piece
from predictor.text.output import ParsedOutput
from predictor.types import AudioPiece, TextRequest, Usage

TEXT = TextRequest("English")
CUTS = CutOptions(segment_s=1.0, vad="off")


class Engine:
    """Pieces begin, and end when the test says so."""

    def __init__(self) -> None:
        self.admission = Admission(100.0, Metrics(CollectorRegistry()))
        self.begun: list[float] = []
        self.under_way = 0
        self.most = 0
        self.may_end = asyncio.Semaphore(0)

    async def transcribe_piece(self, piece: AudioPiece, request: TextRequest) -> Piece:
        self.begun.append(piece.start_s)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.may_end.acquire()
        finally:
            self.under_way -= 1
        parsed = ParsedOutput("word", request.language, 1.0, 0.0, 1, 0)
        return Piece(piece.start_s, piece.end_s, parsed, "stop", Usage(1, 1, 1), (1,))


@pytest.fixture(scope="module")
def decoder() -> Iterator[AudioDecoder]:
    decoder = AudioDecoder(
        AudioLimits(), num_workers=1, options=AudioOptions(), cuts=CUTS, num_long=1, window_s=8.0
    )
    decoder.start()
    yield decoder
    decoder.close()


def _run(
    decoder: AudioDecoder, engine: Engine, kept: dict[int, Piece], done: dict[int, Piece]
) -> PieceRun:
    async def keep(position: int, piece: Piece) -> None:
        done[position] = piece

    return PieceRun(decoder, engine, TEXT, kept, keep)  # type: ignore[arg-type]


async def _until(wanted: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not wanted():
            await asyncio.sleep(0.001)


async def test_one_piece_while_requests_hold_much_and_more_when_they_have_gone(
    decoder: AudioDecoder, wav: Callable[..., bytes], talk: Callable[..., np.ndarray]
) -> None:
    engine, done = Engine(), dict[int, Piece]()
    run = _run(decoder, engine, {}, done)
    with engine.admission.hold(50.0):
        task = asyncio.create_task(run.all_pieces(decoder.source(wav(talk(20.0)))))
        for number in range(4):
            await _until(lambda: engine.under_way == 1)
            engine.may_end.release()
            await _until(lambda: len(done) == number + 1)  # noqa: B023
        assert engine.most == 1
    await _until(lambda: engine.under_way > 1)
    while not task.done():
        engine.may_end.release()
        await asyncio.sleep(0.001)
    end = await task
    assert end.duration_s == 20.0
    assert sorted(done) == list(range(run.num_pieces))
    assert 1 < engine.most <= 8
    assert engine.admission.held_audio_s == 0.0


async def test_pieces_that_are_kept_are_not_transcribed_unless_they_were_cut_otherwise(
    decoder: AudioDecoder, wav: Callable[..., bytes], talk: Callable[..., np.ndarray]
) -> None:
    source = decoder.source(wav(talk(12.0)))
    first, done = Engine(), dict[int, Piece]()
    first.may_end = asyncio.Semaphore(1000)
    await _run(decoder, first, {}, done).all_pieces(source)
    starts = [done[i].start_s for i in sorted(done)]
    kept = {i: piece for i, piece in done.items() if i % 3}
    kept[1] = done[2]
    again = Engine()
    again.may_end = asyncio.Semaphore(1000)
    anew: dict[int, Piece] = {}
    await _run(decoder, again, kept, anew).all_pieces(source)
    assert sorted(anew) == [i for i in sorted(done) if i % 3 == 0 or i == 1]
    assert again.begun == [starts[i] for i in sorted(anew)]
    assert all(anew[i] == done[i] for i in anew)


async def test_a_piece_that_fails_ends_the_run_and_the_others_with_it(
    decoder: AudioDecoder, wav: Callable[..., bytes], talk: Callable[..., np.ndarray]
) -> None:
    class Leaving(Engine):
        async def transcribe_piece(self, piece: AudioPiece, request: TextRequest) -> Piece:
            if len(self.begun) == 2:
                raise NotReady("leaving")
            return await super().transcribe_piece(piece, request)

    engine, done = Leaving(), dict[int, Piece]()
    with pytest.raises(NotReady):
        await _run(decoder, engine, {}, done).all_pieces(decoder.source(wav(talk(60.0))))
    assert (engine.under_way, done) == (0, {})
