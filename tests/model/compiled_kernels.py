"""A program: compiles the Triton kernels for sm_90 and prints what each one takes; without
`--whole` each in one of its forms, the one that asks most of the compiler.

Ends with an error where one does not compile, where a small-batch step's kernel waits for the one
ahead of it before it has asked for its weights, or where an 8-bit cache is not widened by the
hardware.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from itertools import product
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from predictor.model.cuda.decoder import Fusion
from predictor.model.cuda.kernels import attention as decode_kernels
from predictor.model.cuda.kernels import decoder as kernels
from predictor.model.cuda.kernels import encoder as encoder_kernels
from predictor.model.cuda.kernels import mel as mel_kernels
from predictor.model.cuda.kernels import prefill as prefill_kernels
from predictor.model.cuda.kernels import quantized as quantized_kernels
from predictor.model.cuda.kernels import small_batch as small_batch_kernels
from predictor.model.cuda.kernels import small_batch_attention as attention_kernels
from predictor.model.cuda.kernels import small_head as small_head_kernels
from predictor.model.cuda.kernels import step as step_kernels
from predictor.model.cuda.kernels import tiled as tiled_kernels

HOPPER = GPUTarget("cuda", 90, 32)
HALF, FLOAT, LONG, INT = "*bf16", "*fp32", "*i64", "*i32"
TYPES = {HALF: torch.bfloat16, "*fp8e4nv": torch.float8_e4m3fn}  # what caches hold
IS_WHOLE = sys.argv[1:] == ["--whole"]
CACHES = tuple(TYPES) if IS_WHOLE else ("*fp8e4nv",)
BOTH = (False, True) if IS_WHOLE else (True,)
WIDENED = "cvt.rn.f16x2.e4m3x2"  # two values in one instruction
HEADS, KV_HEADS, DIM, HIDDEN, FFN, VOCAB = 16, 8, 128, 2048, 6144, 151_936
ALIGNED = (
    "width",
    "query_stride",
    "x_stride",
    "share",
    "token_stride",
)  # multiples of 16 at every size that there is
PTX_LOAD, PTX_WAIT = "ld.global", "griddepcontrol.wait"
PTX_SIGNAL = "griddepcontrol.launch_dependents"


def compiled(
    kernel: Any,
    types: Mapping[str, str],
    *,
    num_warps: int = 4,
    num_stages: int = 3,
    **constants: Any,
) -> str:
    """The PTX of a kernel; `types` of its arguments that are not constants: pointers that it does
    not name are to 16-bit values, numbers are 32-bit integers."""
    signature: dict[str, str] = {}
    attributes = {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        signature[name] = types.get(name) or (HALF if name.endswith("_ptr") else "i32")
        if signature[name].startswith("*") or name in ALIGNED:
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    pdl = bool(constants.get("PDL"))
    options = {"num_warps": num_warps, "num_stages": num_stages, "launch_pdl": pdl}
    binary = triton.compile(source, target=HOPPER, options=options)
    ptx = str(binary.asm["ptx"])
    print(f"{kernel.__name__}: {binary.metadata.shared} bytes shared, {len(binary.asm['cubin'])}")
    return ptx


def require_widened(ptx: str, cache: str) -> None:
    """An 8-bit cache is widened by the hardware, to float16."""
    if (WIDENED in ptx) != (cache != HALF) or "bf16x2.e4m3x2" in ptx:
        raise SystemExit(f"a cache of {cache} is widened in another way")


def asks_before_it_waits(ptx: str) -> bool:
    return PTX_LOAD in ptx[: ptx.index(PTX_WAIT)]


def compile_encoder() -> None:
    convolution = {"BINS": 128, "FRAMES": 100, "NUM_CHANNELS": 480}
    compiled(
        encoder_kernels._first_convolution_kernel, {"chunks_ptr": FLOAT},
        **convolution, BLOCK_P=64, BLOCK_C=128, PRECISION="tf32",
    )  # fmt: skip
    for turn in BOTH:
        compiled(
            encoder_kernels._bias_gelu_kernel, {},
            HEIGHT=16, WIDTH=13, NUM_CHANNELS=480, TURN=turn, BLOCK=2048,
        )  # fmt: skip
    for has_add in BOTH:
        compiled(encoder_kernels._layer_norm_kernel, {"eps": "fp32"}, HAS_ADD=has_add, BLOCK=1024)
    places = dict.fromkeys(("second_ptr", "start_ptr", "size_ptr"), LONG)
    compiled(
        mel_kernels._frames_kernel,
        {"waveforms_ptr": FLOAT, "window_ptr": FLOAT, "out_ptr": FLOAT, **places},
        FRAMES=100, HOP=160, WIDTH=400, LEAST=8000, ROWS=4, BLOCK=512,
    )  # fmt: skip
    compiled(mel_kernels._power_kernel, {"spectrum_ptr": FLOAT, "out_ptr": FLOAT}, BLOCK=1024)


def compile_language_model() -> None:
    for has_add in BOTH:
        compiled(kernels._norm_kernel, {"eps": "fp32"}, HAS_ADD=has_add, BLOCK=HIDDEN)
    for cache in CACHES:
        compiled(
            kernels._rope_kernel,
            {"eps": "fp32", "positions_ptr": LONG, "places_ptr": LONG}
            | {"key_cache_ptr": cache, "value_cache_ptr": cache},
            HEADS=HEADS, KV_HEADS=KV_HEADS, HALF=DIM // 2, BLOCK_H=32,
        )  # fmt: skip
    compiled(kernels._swiglu_kernel, {}, BLOCK=1024)
    parts = {"peak_ptr": FLOAT, "total_ptr": FLOAT}
    heads = {"KV_HEADS": KV_HEADS, "GROUP": HEADS // KV_HEADS, "DIM": DIM, "PAGE": 64}
    shared = {f"shared_{name}_ptr": FLOAT for name in ("sums", "peak", "total")}
    ways = tuple(product(((1, 0), (8, 0), (1, 2)), CACHES))
    if not IS_WHOLE:
        ways = (((8, 0), HALF), ((1, 2), "*fp8e4nv"))
    for (splits, shares), cache in ways:
        block, num_warps, num_stages = Fusion().tile_of(splits, TYPES[cache])
        ptx = compiled(
            decode_kernels._attention_kernel,
            {**parts, "slots_ptr": LONG, "tables_ptr": LONG, "lengths_ptr": INT, "scale": "fp32"}
            | {"keys_ptr": cache, "values_ptr": cache, "counts_ptr": INT, **shared}
            | ({} if splits == 1 else {"out_ptr": FLOAT}),
            **heads, TILE=16, BLOCK=block, SPLITS=splits, SHARES=shares,
            PRECISION="tf32", num_warps=num_warps, num_stages=num_stages,
        )  # fmt: skip
        require_widened(ptx, cache)
        if shares:
            ptx = compiled(
                decode_kernels._shared_kernel,
                {**parts, "sums_ptr": FLOAT, "table_ptr": LONG, "counts_ptr": INT, "scale": "fp32"}
                | {"keys_ptr": cache, "values_ptr": cache},
                **heads, GROUP_ROWS=2, ROWS=64, BLOCK=64, SHARES=shares, PRECISION="tf32",
            )  # fmt: skip
            require_widened(ptx, cache)
    for cache, page in product(CACHES, (0, 64) if IS_WHOLE else (64,)):
        compiled(
            prefill_kernels._prefill_attention_kernel,
            {"tiles_ptr": INT, "tables_ptr": LONG, "scale": "fp32"}
            | {"cached_keys_ptr": cache, "cached_values_ptr": cache},
            KV_HEADS=KV_HEADS, GROUP=HEADS // KV_HEADS, DIM=DIM, TOKENS=32, ROWS=64, BLOCK=64,
            PAGE=page, PRECISION="tf32", num_stages=2,
        )  # fmt: skip
    compiled(decode_kernels._merge_kernel, {**parts, "sums_ptr": FLOAT}, DIM=DIM, SPLITS=8)
    compiled(kernels._head_kernel, {**parts, "best_ptr": INT}, NUM_BLOCKS=19, BLOCK=8192)
    chosen = {"tokens_ptr": LONG, "logprobs_ptr": FLOAT, "best_ptr": INT}
    compiled(kernels._choose_kernel, {**parts, **chosen}, NUM_BLOCKS=19, BLOCK=32)


def compile_small_batch() -> None:
    """Rows of each matrix in bf16, and of one of them in 8 bits; attention; head."""
    matrices = [
        # weight, rows, width, norm, swiglu, add, rows and columns of a program
        (HALF, HEADS * DIM + 2 * KV_HEADS * DIM, HIDDEN, True, False, False, 8, 2048),
        (HALF, FFN, HIDDEN, True, True, False, 4, 2048),
        (HALF, HIDDEN, FFN, False, False, True, 4, 8192),
        ("*fp8e4nv", FFN, HIDDEN, True, True, False, 4, 2048),
        ("*i8", FFN, HIDDEN, True, True, False, 4, 2048),
    ]
    waiting = []
    for num_rows in (1, 2) if IS_WHOLE else (2,):
        for weight, n, k, norm, swiglu, add, block_n, block_k in matrices:
            types = {"eps": "fp32", "weight_ptr": weight}
            types |= {} if weight == HALF else {"scale_ptr": FLOAT}
            waiting.append(compiled(
                small_batch_kernels._rows_kernel, types,
                ROWS=num_rows, N=n, K=k, BLOCK_N=block_n, BLOCK_K=block_k, NORM=norm,
                SWIGLU=swiglu, ADD=add, SCALED=weight != HALF, FIRST=False, PDL=True,
            ))  # fmt: skip
    parts = {"sums_ptr": FLOAT, "peak_ptr": FLOAT, "total_ptr": FLOAT}
    splits = attention_kernels.SPLITS
    for cache in CACHES:
        waiting.append(compiled(
            attention_kernels._attention_kernel,
            {**parts, "slots_ptr": LONG, "positions_ptr": LONG, "scale": "fp32", "eps": "fp32"}
            | {"keys_ptr": cache, "values_ptr": cache, "tables_ptr": LONG, "arrived_ptr": INT},
            HEADS=HEADS, KV_HEADS=KV_HEADS, HALF=DIM // 2, TILE=16, BLOCK=64, PAGE=64,
            SPLITS=splits, MERGE=True, PRECISION="tf32", PDL=True,
        ))  # fmt: skip
        require_widened(waiting[-1], cache)
    waiting.append(compiled(
        attention_kernels._attended_kernel, parts | {"positions_ptr": LONG},
        ROWS=1, N=HIDDEN, K=HEADS * DIM, DIM=DIM, BLOCK_N=16, BLOCK_K=2048, BLOCK=64,
        SPLITS=splits, SCALED=False, PDL=True, num_warps=8,
    ))  # fmt: skip
    compiled(
        small_batch_kernels._head_kernel,
        {"best_ptr": INT, "peak_ptr": FLOAT, "total_ptr": FLOAT, "eps": "fp32"},
        N=VOCAB, K=HIDDEN, BLOCK_N=8, BLOCK_K=2048, NUM_TILES=16, PDL=True,
    )  # fmt: skip
    if not all(asks_before_it_waits(ptx) for ptx in waiting):
        raise SystemExit("a small-batch step's kernel waits before it has asked for its weights")


def compile_ends() -> None:
    """Both ends of a step, and what may run behind the first: it waits before it signals."""
    names = ("slots", "tokens", "positions", "tables", "new_positions", "places")
    state = {f"{name}_ptr": LONG for name in names} | {"lengths_ptr": INT, "results_ptr": FLOAT}
    compiled(step_kernels._enter_kernel, state, PAGE=64, BLOCK=HIDDEN, PDL=True)
    for ptx in (
        compiled(
            small_batch_kernels._rows_kernel, {"eps": "fp32"},
            ROWS=1, N=(HEADS + 2 * KV_HEADS) * DIM, K=HIDDEN, BLOCK_N=8, BLOCK_K=HIDDEN, NORM=True,
            SWIGLU=False, ADD=False, SCALED=False, FIRST=True, PDL=True,
        ),
        compiled(
            tiled_kernels._ready_kernel, {"sums_ptr": FLOAT},
            WIDTH=HIDDEN, BLOCK=HIDDEN, PARTS=128, PDL=True,
        ),
    ):  # fmt: skip
        signals_first = ptx.index(PTX_SIGNAL) < ptx.index(PTX_WAIT)
        if signals_first or not asks_before_it_waits(ptx):
            raise SystemExit("others may start before a step's first kernel has ended")
    parts = {"best_ptr": INT, "peak_ptr": FLOAT, "total_ptr": FLOAT}
    for num_blocks, block, num_warps in ((19, 32, 1), (1187, 2048, 4)):
        ptx = compiled(
            step_kernels._leave_kernel, state | parts,
            NUM_BLOCKS=num_blocks, BLOCK=block, PDL=True, num_warps=num_warps,
        )  # fmt: skip
        if "st.global" in ptx[: ptx.index(PTX_WAIT)] or not asks_before_it_waits(ptx):
            raise SystemExit("a step's last kernel waits for less, or more, than it needs")


def compile_small_head() -> None:
    """The input in 8 bits, the stream of rows, and the candidates among them."""
    types = dict.fromkeys(("input_ptr", "known_ptr", "sums_ptr", "parts_ptr"), FLOAT)
    types |= {"input_words_ptr": INT, "words_ptr": INT, "best_ptr": INT, "eps": "fp32"}
    compiled(
        small_head_kernels._quantize_kernel, types | {"words_ptr": "*i8"},
        K=HIDDEN, BYTES=HIDDEN, ROWS=4, BLOCK_K=HIDDEN, STEPS=127, SUMS=2.5e-4, ROUNDING=1.0001,
    )  # fmt: skip
    compiled(
        small_head_kernels._input_kernel, types,
        K=HIDDEN, WORDS=HIDDEN // 4, BLOCK_K=HIDDEN, STEPS=8256, ROUNDING=1.0001, PDL=True,
    )  # fmt: skip
    for num_rows in (1, 2) if IS_WHOLE else (1,):
        ptx = compiled(
            small_head_kernels._stream_kernel, types,
            ROWS=num_rows, CHUNKS=4, WIDTH=128, BLOCK_N=16, N=128, HARDWARE=True, PDL=True,
        )  # fmt: skip
        if "dp4a.s32.s32" not in ptx or f"{PTX_LOAD}.v4.b32" not in ptx:
            raise SystemExit("the head's 8-bit rows are not read and multiplied as words")
        if not asks_before_it_waits(ptx):
            raise SystemExit("the head waits before it has asked for its rows")
    compiled(
        small_head_kernels._candidates_kernel, types,
        K=HIDDEN, BLOCK_K=HIDDEN, N=128, BLOCK=2048, PDL=True,
    )  # fmt: skip


def compile_tiled() -> None:
    """The products of a layer with the tiles of the 1.7B; those that ask early do."""
    attended, qkv = HEADS * DIM, (HEADS + 2 * KV_HEADS) * DIM
    products = [("plain", qkv, HIDDEN), ("add", HIDDEN, attended), ("swiglu", FFN, HIDDEN)]
    for (kind, n, k), num_rows in product(
        [*products, ("add", HIDDEN, FFN)], (8, tiled_kernels.MAX_ROWS) if IS_WHOLE else (8,)
    ):
        tile = tiled_kernels.tile_of(kind, k)
        assert tile is not None
        ptx = compiled(
            tiled_kernels._tiled_kernel,
            {"power_ptr": FLOAT, "sums_ptr": FLOAT, "scale_ptr": FLOAT, "eps": "fp32"},
            num_warps=tile.warps, ROWS=num_rows, N=n, K=k, BLOCK_N=tile.rows,
            BLOCK_K=tile.columns, GROUPS=tile.warps, FIRST=tile.first,
            PARTS=HIDDEN // tiled_kernels.SUM_ROWS, NORM=kind != "add", SWIGLU=kind == "swiglu",
            ADD=kind == "add", SCALED=False, STAGES=tile.stages, PRECISION="tf32", PDL=True,
        )  # fmt: skip
        if tile.first and not asks_before_it_waits(ptx):
            raise SystemExit("a product waits before it has asked for its weights")


def compile_quantized() -> None:
    peaks = {"MAX": 448.0, "LEAST": 1e-30}
    fp8 = {"out_ptr": "*fp8e4nv", "scale_ptr": FLOAT}
    compiled(quantized_kernels._quantize_kernel, fp8, **peaks, BLOCK=HIDDEN)
    compiled(
        quantized_kernels._norm_quantize_kernel, {**fp8, "eps": "fp32"},
        **peaks, HAS_ADD=True, BLOCK=HIDDEN,
    )  # fmt: skip
    compiled(quantized_kernels._swiglu_quantize_kernel, fp8, **peaks, BLOCK=8192)
    int8 = {"weight_ptr": "*i8", "scale_ptr": FLOAT, "parts_ptr": FLOAT, "counts_ptr": INT}
    compiled(
        quantized_kernels._int8_kernel, int8,
        ROWS=16, CHANNELS=64, BLOCK=128, IS_EVEN=True, PRECISION="tf32",
    )  # fmt: skip
    compiled(
        quantized_kernels._dequantize_kernel, {"weight_ptr": "*i8", "scale_ptr": FLOAT}, BLOCK=2048
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder
        compile_encoder()
        compile_language_model()
        compile_small_batch()
        compile_ends()
        compile_tiled()
        compile_small_head()
        compile_quantized()


if __name__ == "__main__":
    main()
