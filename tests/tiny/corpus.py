"""Training items made by worker processes and sent as blocks of plain arrays.

A block travels over a pipe as a small header and one buffer, so the consumer copies bytes and
never unpickles arrays. A worker waits when its pipe is full; nothing is stored.
"""

import fcntl
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import numpy as np

from . import grammar, nonspeech, voices
from .synth import SAMPLE_RATE_HZ, Speech, Synthesizer
from .tokenizer import ADDED_TOKENS, UnitTokenizer
from .words import clean_word

MAX_SAMPLES = 8 * SAMPLE_RATE_HZ
NON_SPEECH_SHARE = 0.03
_PIPE_BYTES = 1 << 20
_MAX_RESTARTS = 100
NONE, ENGLISH, CHINESE = 0, 1, 2
LANGUAGE_NAMES = ("None", "English", "Chinese")


@dataclass(frozen=True)
class Item:
    """One utterance, or a sound that is none (language 0, no tokens, no units)."""

    audio: np.ndarray  # int16 [n], 16 kHz mono
    language: int
    tokens: np.ndarray  # int16: of the text only
    lead: np.ndarray  # int16: of the first unit, when the text follows another of its language
    unit_tokens: np.ndarray  # int16 [units]: cumulative number of tokens
    unit_starts: np.ndarray  # int32 [units]: samples from the item's start
    unit_ends: np.ndarray  # int32 [units]: samples, non-decreasing
    context: np.ndarray  # int16: tokens of the context, mostly none


@dataclass(frozen=True)
class Block:
    """N items, arrays one after another; item i of an array is [offsets[i], offsets[i + 1])."""

    audio: np.ndarray  # int16 [sum samples]
    audio_offsets: np.ndarray  # int64 [N + 1]
    language: np.ndarray  # uint8 [N]
    tokens: np.ndarray  # int16 [sum tokens]
    token_offsets: np.ndarray  # int64 [N + 1]
    lead_tokens: np.ndarray  # int16
    lead_offsets: np.ndarray  # int64 [N + 1]
    unit_tokens: np.ndarray  # int16 [sum units]
    unit_starts: np.ndarray  # int32 [sum units]
    unit_ends: np.ndarray  # int32 [sum units]
    unit_offsets: np.ndarray  # int64 [N + 1]
    context_tokens: np.ndarray  # int16
    context_offsets: np.ndarray  # int64 [N + 1]

    def __len__(self) -> int:
        return len(self.language)

    def item(self, index: int) -> Item:
        """Views of item `index`."""

        def part(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
            return values[offsets[index] : offsets[index + 1]]

        return Item(
            part(self.audio, self.audio_offsets),
            int(self.language[index]),
            part(self.tokens, self.token_offsets),
            part(self.lead_tokens, self.lead_offsets),
            part(self.unit_tokens, self.unit_offsets),
            part(self.unit_starts, self.unit_offsets),
            part(self.unit_ends, self.unit_offsets),
            part(self.context_tokens, self.context_offsets),
        )


class ItemMaker:
    """Makes items in this process; two makers of one seed make the same items."""

    def __init__(
        self,
        tokenizer_dir: str | Path,
        seed: int,
        split: grammar.Split = "train",
        *,
        for_alignment: bool = False,
    ) -> None:
        """`for_alignment`: an aligner's tokens, each word bare and before its two time marks."""
        self._tokenizer = UnitTokenizer(tokenizer_dir)
        self._synthesizer = Synthesizer()
        self._rng = random.Random(seed)
        self._noise_rng = np.random.default_rng(seed)
        self._split = split
        self._for_alignment = for_alignment

    def make(self) -> Item:
        if not self._for_alignment and self._rng.random() < NON_SPEECH_SHARE:
            return _item(nonspeech.make(self._noise_rng), NONE)
        while True:
            sentence = grammar.sample(self._rng, self._split)
            voice = voices.pick(self._rng, sentence.language, held_out=self._split == "held_out")
            speech = self._synthesizer.say(sentence, voice, self._rng)
            if len(speech.samples) <= MAX_SAMPLES:
                break
        if self._for_alignment:
            return self._aligned(sentence, speech)
        units = self._tokenizer.encode_units(sentence.words, sentence.language)
        lead = self._tokenizer.encode_units(sentence.words[:1], sentence.language, follows=True)[0]
        return _item(
            speech.samples,
            LANGUAGE_NAMES.index(sentence.language),
            tokens=[token for unit in units for token in unit],
            lead=lead,
            unit_tokens=np.cumsum([len(unit) for unit in units]),
            unit_starts=np.round(speech.word_starts * SAMPLE_RATE_HZ),
            unit_ends=np.round(speech.word_ends * SAMPLE_RATE_HZ),
            context=self._tokenizer.encode(sentence.context) if sentence.context else (),
        )

    def _aligned(self, sentence: grammar.Sentence, speech: Speech) -> Item:
        marks = [ADDED_TOKENS["<timestamp>"]] * 2
        rows = zip(sentence.words, speech.word_starts, speech.word_ends, strict=True)
        said = [(clean_word(word), start, end) for word, start, end in rows]
        said = [row for row in said if row[0]]
        units = [self._tokenizer.encode(word) + marks for word, _, _ in said]
        return _item(
            speech.samples,
            LANGUAGE_NAMES.index(sentence.language),
            tokens=[token for unit in units for token in unit],
            lead=units[0],
            unit_tokens=np.cumsum([len(unit) for unit in units]),
            unit_starts=np.round(np.array([s for _, s, _ in said]) * SAMPLE_RATE_HZ),
            unit_ends=np.round(np.array([e for _, _, e in said]) * SAMPLE_RATE_HZ),
        )

    def make_block(self, num_items: int) -> Block:
        return join([self.make() for _ in range(num_items)])


def join(items: list[Item]) -> Block:
    def offsets(name: str) -> np.ndarray:
        return np.cumsum([0] + [len(getattr(item, name)) for item in items], dtype=np.int64)

    def values(name: str) -> np.ndarray:
        return np.concatenate([getattr(item, name) for item in items])

    return Block(
        values("audio"),
        offsets("audio"),
        np.array([item.language for item in items], np.uint8),
        values("tokens"),
        offsets("tokens"),
        values("lead"),
        offsets("lead"),
        values("unit_tokens"),
        values("unit_starts"),
        values("unit_ends"),
        offsets("unit_ends"),
        values("context"),
        offsets("context"),
    )


class Producers:
    """Worker processes that make blocks for ever; use as a context manager, or close()."""

    def __init__(
        self,
        num_procs: int,
        seed: int,
        tokenizer_dir: str | Path,
        split: grammar.Split,
        block_items: int,
        for_alignment: bool = False,
    ):
        self._context = multiprocessing.get_context("spawn")
        self._arguments = (str(tokenizer_dir), split, block_items, for_alignment)
        self._connections: list[Connection] = []
        self._processes: dict[Connection, SpawnProcess] = {}
        self._ready: list[Connection] = []
        self._next_seed = 1000 * seed
        self.num_restarts = 0
        for _ in range(num_procs):
            self._start()

    def _start(self) -> None:
        receiver, sender = self._context.Pipe(duplex=False)
        fcntl.fcntl(receiver.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        tokenizer_dir, *rest = self._arguments
        arguments = (sender, tokenizer_dir, self._next_seed, *rest)
        process = self._context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        sender.close()
        self._next_seed += 1
        self._connections.append(receiver)
        self._processes[receiver] = process

    def next_block(self, timeout_s: float = 60.0) -> Block:
        """The next block of any worker.

        The synthesizers crash once in some 50,000 utterances; a dead worker is replaced by one with
        a new seed. Raises RuntimeError when that happens too often, TimeoutError if none answers.
        """
        while True:
            if not self._ready:
                self._ready = list(wait(self._connections, timeout_s))  # type: ignore[arg-type]
            if not self._ready:
                raise TimeoutError(f"no block within {timeout_s} s")
            connection = self._ready.pop()
            try:
                return _receive(connection)
            except EOFError as error:
                self._replace(connection, error)

    def _replace(self, connection: Connection, error: EOFError) -> None:
        process = self._processes.pop(connection)
        self._connections.remove(connection)
        connection.close()
        process.join()
        self.num_restarts += 1
        if self.num_restarts > _MAX_RESTARTS:
            raise RuntimeError(f"speech workers die (exit code {process.exitcode})") from error
        self._start()

    def __iter__(self) -> Iterator[Block]:
        while True:
            yield self.next_block()

    def close(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.join()
        for connection in self._connections:
            connection.close()

    def __enter__(self) -> "Producers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start_producers(
    num_procs: int,
    seed: int,
    tokenizer_dir: str | Path,
    split: grammar.Split = "train",
    block_items: int = 256,
    *,
    for_alignment: bool = False,
) -> Producers:
    """Starts `num_procs` workers ('spawn': safe beside CUDA). Their seeds are 1000·seed + index."""
    return Producers(num_procs, seed, tokenizer_dir, split, block_items, for_alignment)


def _item(
    audio: np.ndarray,
    language: int,
    tokens: object = (),
    lead: object = (),
    unit_tokens: object = (),
    unit_starts: object = (),
    unit_ends: object = (),
    context: object = (),
) -> Item:
    tokens_, lead_, unit_tokens_ = (np.asarray(a, np.int16) for a in (tokens, lead, unit_tokens))
    starts, ends = (np.asarray(a, np.int32) for a in (unit_starts, unit_ends))
    short_context = np.asarray(context, np.int16)
    return Item(audio, language, tokens_, lead_, unit_tokens_, starts, ends, short_context)


def _work(
    sender: Connection,
    tokenizer_dir: str,
    seed: int,
    split: grammar.Split,
    block_items: int,
    for_alignment: bool,
) -> None:
    maker = ItemMaker(tokenizer_dir, seed, split, for_alignment=for_alignment)
    first = max(1, block_items // 8)  # training starts sooner
    try:
        _send(sender, maker.make_block(first))
        while True:
            _send(sender, maker.make_block(block_items))
    except (BrokenPipeError, KeyboardInterrupt):
        return


def _send(sender: Connection, block: Block) -> None:
    arrays = [getattr(block, field.name) for field in fields(Block)]
    sender.send([(array.dtype.str, len(array)) for array in arrays])
    for array in arrays:
        rest = np.ascontiguousarray(array).view(np.uint8).data if len(array) else memoryview(b"")
        while rest:
            rest = rest[os.write(sender.fileno(), rest) :]


def _receive(receiver: Connection) -> Block:
    arrays = []
    for dtype, length in receiver.recv():
        array = np.empty(length, dtype)
        rest = array.view(np.uint8).data if length else memoryview(b"")
        while rest:  # straight into the array, without the GIL and without Connection's copies
            num_read = os.readv(receiver.fileno(), [rest])
            if num_read == 0:
                raise EOFError
            rest = rest[num_read:]
        arrays.append(array)
    return Block(*arrays)


def measure(tokenizer_dir: str | Path, num_items: int = 300) -> float:
    """Items a second of one process here."""
    maker = ItemMaker(tokenizer_dir, 1)
    maker.make_block(50)
    start = time.perf_counter()
    maker.make_block(num_items)
    return num_items / (time.perf_counter() - start)
