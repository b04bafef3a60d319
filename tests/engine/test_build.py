"""Building an engine: devices, types, the memory plan, and what may be imported where."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from predictor.engine import EngineOptions, build_engine
from predictor.engine.pages import PAGE_TOKENS
from predictor.engine.start import build, memory
from predictor.engine.start.build import choose_device
from predictor.engine.start.memory import free_bytes, page_bytes, plan_pages
from predictor.model import quantized_cpu
from predictor.model.attention import FP8
from predictor.model.checkpoint.host_memory import free_host_bytes
from predictor.model.config import CheckpointError, ModelConfig, TextConfig
from predictor.model.model import Model
from predictor.model.precision import Precision, choose_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_the_model_is_no_longer_than_its_positions(native: Path) -> None:
    engine = build_engine(native, "cpu", "float32", EngineOptions(max_model_len=100_000))
    assert engine.stats().max_model_len == 4096


def test_slots_are_as_many_as_asked_when_memory_allows(native: Path) -> None:
    engine = build_engine(native, "cpu", "auto", EngineOptions(max_num_seqs=3, max_model_len=64))
    assert engine.stats().num_slots == 3


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        build_engine(tmp_path, "cpu", "auto", EngineOptions())


def test_a_page_takes_what_the_cache_allocates(model: Model) -> None:
    cache = model.new_cache(3, PAGE_TOKENS)
    assert 3 * page_bytes(model.config.text, model.dtype) == cache.data.nbytes
    small = model.new_cache(3, PAGE_TOKENS, FP8)
    assert 3 * page_bytes(model.config.text, FP8) == small.data.nbytes


BIG = TextConfig(
    vocab_size=151_936, hidden_size=2048, ffn_size=6144, num_layers=28, num_heads=16,
    num_kv_heads=8, head_dim=128, rms_norm_eps=1e-6, rope_theta=1e6, max_positions=65_536,
)  # fmt: skip


def test_the_plan_keeps_to_the_fraction_of_what_is_free() -> None:
    free = free_bytes(CPU)
    assert free is not None
    options = EngineOptions(max_num_seqs=1_000_000, kv_memory_fraction=0.5)
    pages = plan_pages(BIG, options, 1024, CPU, torch.bfloat16)
    assert page_bytes(BIG, torch.bfloat16) == 7 * 1024 * 1024
    assert pages * page_bytes(BIG, torch.bfloat16) == pytest.approx(free * 0.5, rel=0.1)
    assert plan_pages(BIG, replace(options, max_num_seqs=2), 64, CPU, torch.bfloat16) == 2


def test_twice_as_many_pages_fit_in_8_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    options = EngineOptions(max_num_seqs=1_000_000, kv_memory_fraction=0.5)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 104 * page_bytes(BIG, FP8))
    assert plan_pages(BIG, options, 64, CPU, FP8) == 51  # and one for what fills a step up
    assert plan_pages(BIG, options, 64, CPU, torch.bfloat16) == 25


def test_a_card_of_24_gb_holds_350_sequences_of_10_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """1.7B in 16 bit at the default settings; 22 tokens of prompt, 35 of answer."""
    free = 24 * 10**9 - 2 * 2 * 10**9 - 10**9  # weights, and what the driver takes
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    options = EngineOptions(max_num_seqs=512)
    pages = plan_pages(BIG, options, 3072, CPU, torch.bfloat16)
    assert pages // -(-(130 + 22 + 35) // PAGE_TOKENS) >= 350


def test_a_sequence_that_cannot_fit_is_refused_with_the_figures() -> None:
    options = EngineOptions(kv_memory_fraction=1e-6)
    with pytest.raises(ValueError, match=r"max_model_len 3072 needs 343 MiB .*1e-06"):
        plan_pages(BIG, options, 3072, CPU, torch.bfloat16)


def test_what_is_reserved_for_the_work_is_not_given_to_the_cache() -> None:
    free = free_bytes(CPU)
    assert free is not None
    options = EngineOptions(max_num_seqs=1_000_000, kv_memory_fraction=1.0)
    reserved = free // 4 * 3
    pages = plan_pages(BIG, options, 1024, CPU, torch.bfloat16, reserved)
    assert pages * page_bytes(BIG, torch.bfloat16) == pytest.approx(free / 4, rel=0.2)
    with pytest.raises(ValueError, match=r"MiB for the work itself \(max_prefill_audio_s 120\)"):
        plan_pages(BIG, options, 1024, CPU, torch.bfloat16, free)


def test_free_memory_is_the_containers_where_that_is_less(tmp_path: Path) -> None:
    assert free_host_bytes(tmp_path) is None
    meminfo = tmp_path / "proc" / "meminfo"
    meminfo.parent.mkdir()
    meminfo.write_text("MemTotal:  9000 kB\nMemAvailable:   4096 kB\n")
    assert free_host_bytes(tmp_path) == 4096 * 1024
    cgroup = tmp_path / "sys" / "fs" / "cgroup"
    cgroup.mkdir(parents=True)
    (cgroup / "memory.current").write_text("1000\n")
    (cgroup / "memory.max").write_text("max\n")
    assert free_host_bytes(tmp_path) == 4096 * 1024
    (cgroup / "memory.max").write_text("5000\n")
    assert free_host_bytes(tmp_path) == 4000


def test_files_that_the_system_has_cached_count_as_free(tmp_path: Path) -> None:
    """A checkpoint that was just read fills the page cache, which gives way to whoever asks."""
    cgroup = tmp_path / "sys" / "fs" / "cgroup"
    cgroup.mkdir(parents=True)
    (cgroup / "memory.max").write_text("5000\n")
    (cgroup / "memory.current").write_text("4500\n")
    (cgroup / "memory.stat").write_text(
        "anon 400\nfile 4100\ninactive_file 3000\nactive_file 1000\n"
    )
    assert free_host_bytes(tmp_path) == 4500


def test_devices_and_precisions_are_checked_by_name() -> None:
    assert choose_device("cpu") == CPU
    assert choose_precision("auto", CPU) == Precision("float32", torch.float32)
    assert choose_precision("auto", CUDA) == Precision("bfloat16", torch.bfloat16)
    assert choose_precision(torch.float16, CPU) == Precision("float16", torch.float16)
    assert choose_precision("int8", CUDA) == Precision("int8", torch.bfloat16, is_quantized=True)
    assert choose_precision("int8", CPU) == Precision("int8", torch.float32, is_quantized=True)
    with pytest.raises(ValueError, match="device must be"):
        choose_device("meta")
    with pytest.raises(ValueError, match=r"precision on cpu must be auto or one of .*, is 'int4'"):
        choose_precision("int4", CPU)
    with pytest.raises(ValueError, match=r"precision on cuda must be auto or one of .*, is 'int4'"):
        choose_precision("int4", CUDA)


def test_int8_is_refused_where_torch_has_no_product_for_it(
    native: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized_cpu, "ENGINE", "an engine of another processor")
    with pytest.raises(ValueError, match=r"precision 'int8' needs torch's an engine.*use fp32"):
        build_engine(native, "cpu", "int8", EngineOptions())


def test_an_8_bit_cache_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kv_precision 'fp8' needs a CUDA device, not 'cpu'"):
        build_engine(tmp_path, "cpu", "bfloat16", EngineOptions(kv_precision="fp8"))


@pytest.mark.parametrize("kv_precision", ["auto", "fp8"])
def test_the_runner_the_rehearsal_and_the_plan_have_the_cache_that_is_asked_for(
    native: Path, monkeypatch: pytest.MonkeyPatch, kv_precision: str
) -> None:
    expected = {"auto": torch.bfloat16, "fp8": FP8}[kv_precision]
    monkeypatch.setattr(
        build, "choose_kv_dtype", lambda name, *_: {"auto": torch.bfloat16, "fp8": FP8}[name]
    )
    rehearsed: list[torch.dtype] = []
    monkeypatch.setattr(build, "rehearse", lambda *arguments: rehearsed.append(arguments[-1]))
    options = EngineOptions(max_model_len=64, kv_memory_fraction=1.0, kv_precision=kv_precision)
    config = ModelConfig.from_folder(native)
    work = memory.work_bytes(config, options, 64, torch.bfloat16)
    free = work + 4 * page_bytes(config.text, torch.bfloat16)  # one fills a step up
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    runner = build.build_runner(native, "cpu", "bfloat16", options)
    assert runner.cache.data.dtype == expected
    assert rehearsed == [expected]
    assert runner.page_size.count == {"auto": 3, "fp8": 7}[kv_precision]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_where_there_is_none_is_refused() -> None:
    assert choose_device("auto") == CPU
    with pytest.raises(ValueError, match="no CUDA device"):
        choose_device("cuda")


def test_without_triton_the_start_goes_on(
    native: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """CUDA builds of torch bring it; where it is missing the plain path serves."""
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "predictor.model.cuda.kernel_cache", raising=False)
    config = ModelConfig.from_folder(native)
    build.rehearse(config, CUDA, choose_precision("auto", CUDA), torch.bfloat16)
    assert "the rehearsal failed; the start goes on without it" in caplog.text


def modules_after(statement: str) -> set[str]:
    """Top-level modules loaded by a fresh interpreter that runs `statement`."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_bookkeeping_runs_without_torch() -> None:
    loaded = modules_after("import predictor.engine, predictor.engine.scheduler")
    assert "predictor" in loaded
    assert "torch" not in loaded


def test_the_engine_needs_neither_transformers_nor_the_server() -> None:
    loaded = modules_after("import predictor.engine.start.build")
    assert "torch" in loaded
    assert not loaded & {"transformers", "kserve", "soundfile", "av", "torchaudio", "fastapi"}
