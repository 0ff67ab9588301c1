"""Speed and memory of the embedded engine beside transformers and llama.cpp, one thread, the same random weights.

    python -m benchmarks.engine_decode [--llama-python PATH]

PATH (or LLAMA_PYTHON) is an interpreter with llama-cpp-python, gguf and numpy; without it llama.cpp is left out. All
sides run in turn in one run and count processor time of one thread, the best of several rounds, so that a busy machine
distorts them alike: read the ratios, not the numbers. Each side has its better of f32 and bf16 weights and finds the
likeliest tokens in its own way; ours computes in f32 with either.

Two threads are compared with one by the clock, in turns, on a quiet machine and beside a process that keeps one of its
processors busy.

The floor of a decode step is the time to read, once and in order, as many bytes as it needs: the weights it touches,
counted by the experts it chose, and the keys and values it sees.

Writes ``build/bench/engine_decode.json``.
"""

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import DynamicCache

from benchmarks.peak_memory import peak_above_start
from model_server.config import ModelConfig
from model_server.engine.ahead import MOST_AT_ONCE
from model_server.engine.cpu_backend import CpuBackend
from model_server.engine.sampler import Drawing, draw
from model_server.kernels.cpu.build import NoLibrary
from model_server.kernels.cpu.library import best_library
from model_server.kernels.memory import empty
from model_server.models.mimo_v2_flash import MiMoV2Flash
from tests.numerics.pooled import PooledSequences
from tests.numerics.small_models import random_ids, random_model, small_config
from tests.numerics.transformers_peer import transformers_model

_REPORT = Path("build/bench/engine_decode.json")
_CHUNK_TOKENS = 512
_NUM_NEW = 16
_ROUNDS = 8
_PREFILL_ROUNDS = 2
_GREEDY = Drawing(temperature=0, top_p=1, top_k=0, min_p=0, logit_bias=())
_THREADS_STEPS = 64
_THREADS_TURNS = 16
_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
_PAIRS = "bf16 products"
"""bf16 weights, and inputs rounded to bf16 (``--kernels cpu-bf16``), which is how the others compute with them."""


@dataclass(frozen=True, slots=True)
class Decode:
    """New tokens of ``batch`` sequences that have ``context`` each."""

    batch: int
    context: int

    @property
    def name(self) -> str:
        return f"decode, batch {self.batch}, {self.context} tokens before"

    @property
    def num_tokens(self) -> int:
        return self.batch * _NUM_NEW


@dataclass(frozen=True, slots=True)
class Prefill:
    """One prompt."""

    length: int

    @property
    def name(self) -> str:
        return f"prefill, {self.length} tokens"

    @property
    def num_tokens(self) -> int:
        return self.length


Workload = Decode | Prefill
_WORKLOADS: tuple[Workload, ...] = (Decode(1, 512), Decode(8, 512), Decode(32, 512), Decode(1, 4096), Prefill(4096))


@dataclass(slots=True)
class Result:
    """Tokens per second of one workload, by side and type of weights; the floor is for our f32 and bf16."""

    workload: str
    speeds: dict[str, dict[str, float]] = field(default_factory=dict)
    floors: dict[str, float] = field(default_factory=dict)

    def best(self, side: str) -> float | None:
        return max(self.speeds[side].values()) if side in self.speeds else None

    def times(self, side: str) -> float | None:
        ours, theirs = self.best("engine"), self.best(side)
        return None if ours is None or theirs is None else ours / theirs


@dataclass(frozen=True, slots=True)
class TwoThreads:
    """Steps of two threads beside steps of one."""

    batch: int
    beside_busy: bool
    speed_up: float

    @property
    def name(self) -> str:
        return f"decode, batch {self.batch}, {'beside a busy process' if self.beside_busy else 'quiet'}"


class Side(Protocol):
    """One engine with one type of weights."""

    name: str
    dtype: str

    def seconds(self, workload: Workload) -> float:
        """Processor time of the best round."""


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine_decode")
    parser.add_argument(
        "--llama-python",
        type=Path,
        default=os.environ.get("LLAMA_PYTHON"),
        help="interpreter with llama-cpp-python, gguf and numpy (default: LLAMA_PYTHON in the environment)",
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = reference_config()
    with ExitStack() as stack:
        ours = [OurSide(random_model(config), dtype) for dtype in _DTYPES]
        with suppress(NoLibrary):  # not every processor has the instruction
            ours.append(OurSide(random_model(config), "bf16", pairs=True))
        sides: list[Side] = [*ours, *(TransformersSide(random_model(config), dtype) for dtype in _DTYPES)]
        if options.llama_python is not None:
            peer = stack.enter_context(LlamaCpp(options.llama_python, random_model(config)))
            sides += [LlamaSide(peer, dtype) for dtype in _DTYPES]
        results = [_measure(workload, sides, ours) for workload in _WORKLOADS]
    threads = [_measure_threads(batch, busy) for busy in (False, True) for batch in (1, 8, 32)]
    peaks = {side: peak_above_start(side) for side in ("engine", "transformers")}
    _print(results, peaks)
    for result in threads:
        Console().print(f"{result.name}: two threads {result.speed_up:.2f}x one")
    record = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "instructions": best_library().variant,
        "results": [asdict(result) for result in results],
        "threads": [asdict(result) for result in threads],
        "peak_bytes_of_prefill_4096_above_weights_and_keys": peaks,
    }
    _REPORT.parent.mkdir(parents=True, exist_ok=True)
    _REPORT.write_text(json.dumps(record, indent=2) + "\n", "utf-8")


def reference_config() -> ModelConfig:
    """12.2 M parameters, 5.2 M active."""
    return small_config(
        vocab_size=4096,
        hidden_size=256,
        num_hidden_layers=6,
        intermediate_size=1024,
        moe_intermediate_size=128,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=48,
        v_head_dim=32,
        swa_num_attention_heads=8,
        swa_num_key_value_heads=4,
        swa_head_dim=48,
        swa_v_head_dim=32,
        n_routed_experts=16,
        num_experts_per_tok=4,
        sliding_window=128,
        max_position_embeddings=8192,
        hybrid_layer_pattern=(0, 1, 1, 1, 1, 0),
        moe_layer_freq=(0, 1, 1, 1, 1, 1),
    )


class OurSide:
    """The C++ step. Keys and values have the type of the weights."""

    name = "engine"

    def __init__(self, model: MiMoV2Flash, dtype: str, *, pairs: bool = False) -> None:
        """``pairs``: with products of bf16 numbers. Raises NoLibrary."""
        self.dtype = _PAIRS if pairs else dtype
        self._config = model.config
        self._cache_dtype = _DTYPES[dtype]
        library = best_library(pairs=pairs)
        self._backend = CpuBackend(model.to(_DTYPES[dtype]), model.config.max_position_embeddings, library)
        self.bytes_per_step: dict[Workload, int] = {}

    def seconds(self, workload: Workload) -> float:
        if isinstance(workload, Prefill):
            return min(self._prefill(workload.length) for _ in range(_PREFILL_ROUNDS))
        batch, context = workload.batch, workload.context
        sequences = self._sequences(batch, context + _NUM_NEW * _ROUNDS)
        for index, prompt in enumerate(random_ids(self._config, context, batch=batch).tolist()):
            self._read(sequences, index, prompt)
        best, drawn = float("inf"), random_ids(self._config, batch, seed=1)[0].tolist()
        go_on = self._alone if batch == 1 else self._together
        for _ in range(_ROUNDS):
            start = time.process_time()
            drawn, experts = go_on(sequences, drawn)
            best = min(best, time.process_time() - start)
        self.bytes_per_step[workload] = self._num_bytes(experts, context, batch)
        return best

    def _alone(self, sequences: PooledSequences, drawn: list[int]) -> tuple[list[int], Tensor]:
        """As the engine runs a greedy sequence that is alone. The newest token, and the last step's experts."""
        for _ in range(0, _NUM_NEW, MOST_AT_ONCE):
            output = self._backend.decode(
                [sequences.segment(0, drawn)], sequences.pools, MOST_AT_ONCE, (), keep_logits=False
            )
            sequences.lengths[0] += MOST_AT_ONCE
            assert output.likeliest is not None
            drawn = [output.likeliest[-1]]
        return drawn, output.experts[-1:]

    def _together(self, sequences: PooledSequences, drawn: list[int]) -> tuple[list[int], Tensor]:
        """Step by step; the newest token of each, and the last step's experts."""
        places = [(0, 0)] * len(drawn)  # greedy drawing goes by no seed
        for _ in range(_NUM_NEW):
            output = sequences.step([sequences.segment(index, [token]) for index, token in enumerate(drawn)])
            drawn = draw(output.logits, _GREEDY, places)
        return drawn, output.experts

    def _prefill(self, length: int) -> float:
        sequences = self._sequences(1, length)
        prompt = random_ids(self._config, length)[0].tolist()
        start = time.process_time()
        self._read(sequences, 0, prompt)
        return time.process_time() - start

    def _sequences(self, num: int, length: int) -> PooledSequences:
        return PooledSequences(self._config, self._backend, num, length, self._cache_dtype)

    def _read(self, sequences: PooledSequences, index: int, prompt: list[int]) -> Tensor:
        for first in range(0, len(prompt), _CHUNK_TOKENS):
            part = prompt[first : first + _CHUNK_TOKENS]
            output = sequences.step([sequences.segment(index, part, num_logits=first + len(part) == len(prompt))])
        return output.logits

    def _num_bytes(self, experts: Tensor, context: int, batch: int) -> int:
        """What one step must read."""
        config, size = self._config, self._cache_dtype.itemsize
        hidden = config.hidden_size
        weights = config.vocab_size * hidden + 3 * hidden * config.intermediate_size
        keys = 0
        for window in map(bool, config.hybrid_layer_pattern):
            heads = config.heads(window)
            width = heads.num_kv_heads * (heads.qk_dim + heads.v_dim)
            weights += hidden * (heads.num_heads * (heads.qk_dim + heads.v_dim) + width)
            keys += width * (min(context, config.window_keys) if window else context)
        num_chosen = sum(len(layer.unique()) for layer in experts.unbind(1))
        weights += num_chosen * 3 * hidden * config.moe_intermediate_size
        routers = experts.shape[1] * config.n_routed_experts * hidden * 4
        return weights * size + routers + batch * keys * size


class TransformersSide:
    """transformers, with the experts' implementation that is fastest here."""

    name = "transformers"

    def __init__(self, model: MiMoV2Flash, dtype: str) -> None:
        self.dtype = dtype
        self._peer = transformers_model(model, experts="grouped_mm")
        torch.nn.Module.to(self._peer, _DTYPES[dtype])

    @torch.inference_mode()
    def seconds(self, workload: Workload) -> float:
        if isinstance(workload, Prefill):
            return min(self._prefill(workload.length) for _ in range(_PREFILL_ROUNDS))
        ids = torch.randint(self._peer.config.vocab_size, (workload.batch, workload.context))
        tokens, cache = self._read(ids)
        best = float("inf")
        for _ in range(_ROUNDS):
            start = time.process_time()
            for _ in range(_NUM_NEW):
                output = self._peer(input_ids=tokens[:, None], past_key_values=cache, use_cache=True)
                tokens = output.logits[:, -1].argmax(-1)
            best = min(best, time.process_time() - start)
        return best

    def _prefill(self, length: int) -> float:
        ids = torch.randint(self._peer.config.vocab_size, (1, length))
        start = time.process_time()
        self._read(ids)
        return time.process_time() - start

    def _read(self, ids: Tensor) -> tuple[Tensor, DynamicCache]:
        output = self._peer(input_ids=ids, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1].argmax(-1), output.past_key_values


class LlamaCpp:
    """The process of ``peers/llama_cpp_peer.py``."""

    def __init__(self, python: Path, model: MiMoV2Flash) -> None:
        self._python, self._model = python, model
        self._stack = ExitStack()

    def __enter__(self) -> "LlamaCpp":
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "config.json").write_text(self._model.config.model_dump_json(), "utf-8")
        weights = {name: weight.numpy() for name, weight in self._model.named_parameters()}
        np.savez(folder / "weights.npz", **weights)  # type: ignore[arg-type]
        script = Path(__file__).parent / "peers/llama_cpp_peer.py"
        command = [str(self._python), str(script), str(folder)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._process = self._stack.enter_context(process)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._stack.close()

    def ask(self, request: str) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


class LlamaSide:
    name = "llama.cpp"

    def __init__(self, peer: LlamaCpp, dtype: str) -> None:
        self.dtype = dtype
        self._peer = peer

    def seconds(self, workload: Workload) -> float:
        if isinstance(workload, Prefill):
            return self._peer.ask(f"{self.dtype} prefill {workload.length} {_PREFILL_ROUNDS}")
        return self._peer.ask(f"{self.dtype} decode {workload.batch} {workload.context} {_NUM_NEW} {_ROUNDS}")


def _measure(workload: Workload, sides: Sequence[Side], ours: Sequence[OurSide]) -> Result:
    result = Result(workload.name)
    for side in sides:
        result.speeds.setdefault(side.name, {})[side.dtype] = workload.num_tokens / side.seconds(workload)
    if isinstance(workload, Decode):
        for side in ours:
            floor = _seconds_to_read(side.bytes_per_step[workload])
            if floor is not None:
                result.floors[side.dtype] = workload.batch / floor
    return result


def _measure_threads(batch: int, beside_busy: bool) -> TwoThreads:
    config = reference_config()
    sides = [
        PooledSequences(
            config,
            CpuBackend(
                random_model(config).bfloat16(), config.max_position_embeddings, best_library(), num_threads=count
            ),
            batch,
            _THREADS_STEPS * (_THREADS_TURNS + 1),
            torch.bfloat16,
        )
        for count in (1, 2)
    ]
    with busy_processor() if beside_busy else nullcontext():
        seconds = [[_turn(side, batch) for side in sides] for _ in range(_THREADS_TURNS + 1)]
    alone, together = (sum(column) for column in zip(*seconds[1:], strict=True))
    return TwoThreads(batch, beside_busy, alone / together)


def _turn(sequences: PooledSequences, batch: int) -> float:
    start = time.perf_counter()
    for _ in range(_THREADS_STEPS):
        sequences.step([sequences.segment(index, [0]) for index in range(batch)])
    return time.perf_counter() - start


@contextmanager
def busy_processor() -> Iterator[None]:
    """A process that does nothing else than keep the first of our processors busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
        yield
    finally:
        process.kill()
        process.wait()


def _seconds_to_read(num_bytes: int) -> float | None:
    """None without a compiler."""
    compiler = shutil.which("c++")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "read_memory.so"
        source = Path(__file__).with_name("read_memory.cpp")
        subprocess.run([compiler, "-O3", "-march=native", "-shared", "-fPIC", source, "-o", library], check=True)
        read = ctypes.CDLL(str(library)).read_memory
    read.argtypes, read.restype = [ctypes.c_void_p, ctypes.c_size_t], ctypes.c_float
    values = empty((num_bytes // 4,), torch.float32).zero_()
    best = float("inf")
    for _ in range(50):
        start = time.process_time()
        read(values.data_ptr(), len(values))
        best = min(best, time.process_time() - start)
    return best


def _print(results: Sequence[Result], peaks: dict[str, int]) -> None:
    columns = [(side, dtype) for side, speeds in results[0].speeds.items() for dtype in speeds]
    others = [side for side in results[0].speeds if side != "engine"]
    table = Table(
        "workload",
        *(f"{side} {dtype}" for side, dtype in columns),
        *(f"against {side}" for side in others),
        *(f"{dtype}, above floor" for dtype in results[0].floors),
        title="tokens/s, one thread, processor time; ratios of the better type of each side",
    )
    for result in results:
        table.add_row(
            result.workload,
            *(f"{result.speeds[side][dtype]:.0f}" for side, dtype in columns),
            *(f"{result.times(side):.1f}x" for side in others),
            *(f"{floor / result.speeds['engine'][dtype]:.2f}x" for dtype, floor in result.floors.items()),
        )
    console = Console(width=200)
    console.print(table)
    for side, peak in peaks.items():
        console.print(f"{side}: peak of a prefill of 4096 above weights, keys and values {peak / 2**20:.1f} MiB")


if __name__ == "__main__":
    main(sys.argv[1:])
