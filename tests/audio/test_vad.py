"""Speech is told from what is none, the same however it comes; held against the package's own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from predictor.audio.speech import SpeechFinder, SpeechOptions
from predictor.audio.vad import EnergyDetector, SpeechDetector, VadState, load_detector, load_silero
from predictor.types import Samples

ROOT = Path(__file__).parents[2]
CLIPS = [ROOT / f"predictor/recordings/demo-{name}.flac" for name in ("en-1", "en-2", "zh-4")]


def frames_of(samples: Samples) -> Samples:
    return samples[: len(samples) // 512 * 512].reshape(1, -1, 512)


def clip(index: int) -> Samples:
    samples, _ = soundfile.read(CLIPS[index], dtype="float32")
    return np.asarray(samples, np.float32)


def in_torch(frames: Samples) -> Samples:
    """The network of the package's `tinygrad_model.py`, on its weights, one frame at a time."""
    spec = importlib.util.find_spec("silero_vad")
    assert spec is not None
    assert spec.origin is not None
    weights = load_file(Path(spec.origin).parent / "data/silero_vad_16k.safetensors")
    cell = torch.nn.LSTMCell(128, 128)
    cell.load_state_dict(
        {k.removeprefix("lstm_cell."): v for k, v in weights.items() if k.startswith("lstm")}
    )
    state, context, out = None, torch.zeros(64), []
    with torch.inference_mode():
        for frame in torch.from_numpy(frames[0].copy()):
            heard = torch.cat([context, frame])
            context = heard[-64:]
            x = F.pad(heard[None, None], (0, 64), mode="reflect")
            x = F.conv1d(x, weights["stft_conv.weight"], stride=128)
            x = torch.sqrt(x[:, :129] ** 2 + x[:, 129:] ** 2)
            for index, stride in ((1, 1), (2, 2), (3, 2), (4, 1)):
                kernel, bias = weights[f"conv{index}.weight"], weights[f"conv{index}.bias"]
                x = F.conv1d(x, kernel, bias, stride=stride, padding=1).relu()
            state = cell(x[:, :, 0], state)
            x = state[0].relu()[:, :, None]
            x = F.conv1d(x, weights["final_conv.weight"], weights["final_conv.bias"])
            out.append(torch.sigmoid(x).item())
    return np.array(out, np.float32)


@pytest.mark.parametrize("index", range(len(CLIPS)))
def test_the_network_is_the_packages(index: int) -> None:
    frames = frames_of(clip(index))
    probabilities, _ = load_silero().hear(frames, VadState.new())
    assert probabilities[0] == pytest.approx(in_torch(frames), abs=1e-4)


def test_its_decisions_are_those_of_the_packages_torch_script() -> None:
    """A later training of the same network: other numbers, the same speech."""
    spec = importlib.util.find_spec("silero_vad")
    assert spec is not None
    assert spec.origin is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit; it is their format
        script = torch.jit.load(str(Path(spec.origin).parent / "data/silero_vad.jit"))
    agreed = total = 0
    for index in range(len(CLIPS)):
        frames = frames_of(np.concatenate([np.zeros(16_000, np.float32), clip(index)]))
        script.reset_states()
        theirs = [script(torch.from_numpy(frame.copy()), 16_000).item() for frame in frames[0]]
        ours, _ = load_silero().hear(frames, VadState.new())
        agreed += int(((ours[0] > 0.5) == (np.array(theirs) > 0.5)).sum())
        total += len(theirs)
    assert agreed / total > 0.95


@pytest.mark.parametrize("name", ["silero", "energy"])
def test_neither_the_calls_nor_the_neighbours_matter(name: str) -> None:
    detector = load_detector(name)  # type: ignore[arg-type]
    streams = [frames_of(clip(index))[:, :60] for index in range(len(CLIPS))]
    alone = [detector.hear(stream, VadState.new())[0][0] for stream in streams]
    state = VadState.stack([VadState.new()] * len(streams))
    together = np.concatenate(streams)
    parts = []
    for start, end in ((0, 1), (1, 8), (8, 60)):
        probabilities, state = detector.hear(together[:, start:end], state)
        parts.append(probabilities)
    joined = np.concatenate(parts, axis=1)
    assert joined == pytest.approx(np.stack(alone), abs=1e-5)
    rest = frames_of(clip(1))[:, 60:70]
    one, _ = detector.hear(rest, state.take(1))
    whole, _ = detector.hear(frames_of(clip(1))[:, :70], VadState.new())
    assert one[0] == pytest.approx(whole[0, 60:], abs=1e-5)


def background(name: str, num_samples: int) -> Samples:
    rng = np.random.default_rng(5)
    t = np.arange(num_samples) / 16_000
    sounds = {
        "digital silence": np.zeros(num_samples),
        "faint noise": rng.normal(0, 10 ** (-70 / 20), num_samples),
        "hum": 0.02 * np.sin(2 * np.pi * 50 * t) + 0.01 * np.sin(2 * np.pi * 150 * t),
    }
    return sounds[name].astype(np.float32)


@pytest.mark.parametrize(
    ("detector", "sound"),
    [
        (load_silero(), "digital silence"),
        (load_silero(), "faint noise"),
        (load_silero(), "hum"),
        (EnergyDetector(), "digital silence"),
        (EnergyDetector(), "faint noise"),
    ],
)
def test_speech_is_found_where_it_is(detector: SpeechDetector, sound: str) -> None:
    quiet, speech = background(sound, 96_256), clip(0)
    speech = speech[: len(speech) // 512 * 512]
    mixed = np.concatenate([quiet, speech, quiet])
    finder = SpeechFinder(SpeechOptions())
    probabilities, _ = detector.hear(frames_of(mixed), VadState.new())
    spans = finder.feed(probabilities[0]) + finder.finish()
    begin, end = len(quiet) / 512, (len(quiet) + len(speech)) / 512
    assert spans
    assert begin - 1 <= spans[0][0] <= begin + 20
    assert spans[-1][1] <= end + 10


def test_quiet_alone_holds_no_speech() -> None:
    for sound in ("digital silence", "faint noise", "hum"):
        probabilities, _ = load_silero().hear(frames_of(background(sound, 640_000)), VadState.new())
        assert SpeechFinder(SpeechOptions()).feed(probabilities[0]) == []


def test_spans_by_thresholds_and_durations() -> None:
    options = SpeechOptions(threshold=0.5, release=0.35, min_speech_s=0.096, min_silence_s=0.16)
    finder = SpeechFinder(options)
    click = [0.9, 0.9, 0, 0, 0, 0, 0]
    speech = [0.4, 0.6, 0.4, 0.1, 0.4, 0.4, 0.1, 0.1, 0.1, 0.1]
    assert finder.feed(click) == []
    assert finder.feed(speech) == []
    assert finder.is_speaking
    assert finder.start == finder.settled == len(click)  # with the frame that rose to it
    assert finder.feed([0.1]) == [(len(click), len(click) + 6)]
    assert finder.start is None
    assert finder.settled == finder.num_frames
    assert finder.feed([0.7] * 3) == []
    assert finder.finish() == [(len(click) + 11, len(click) + 14)]


def test_what_has_to_be_kept_is_bounded_whatever_is_heard() -> None:
    finder = SpeechFinder(SpeechOptions())
    finder.feed([0.3] * 1000)  # never speech, never surely none
    assert finder.num_frames - finder.settled <= 10
    finder.feed([0.9] * 20)
    assert finder.start == 990


def test_no_other_runtime_is_needed() -> None:
    script = (
        "import sys\nfrom predictor.audio.vad import load_silero\nload_silero()\n"
        "print(*sorted({'torch', 'onnxruntime', 'silero_vad'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == []
