"""Memory that a prefill of 4096 tokens takes for the time being, above weights, keys and values.

    python -m benchmarks.peak_memory [engine|transformers]

Prints the peak of the process less what it had before, less the keys and values it keeps. A process for each side,
since an allocator's past decides what it asks for.
"""

import ctypes
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

_LENGTH = 4096
_CHUNK_TOKENS = 512


def peak_above_start(side: str) -> int:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.peak_memory", side]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(sides: Sequence[str]) -> None:
    if not sides:
        for side in ("engine", "transformers"):
            print(f"{side}: {peak_above_start(side) / 2**20:.1f} MiB")
        return
    (side,) = sides
    torch.set_num_threads(1)
    prepare = {"engine": _engine, "transformers": _transformers}[side]
    run = prepare()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not hide what is taken now
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    num_kept = run()
    print(_status("VmHWM") - before - num_kept)


def _engine() -> Callable[[], int]:
    from benchmarks.engine_decode import reference_config
    from model_server.engine.cpu_backend import CpuBackend
    from model_server.kernels.cpu.library import best_library
    from tests.numerics.pooled import PooledSequences
    from tests.numerics.small_models import random_ids, random_model

    config = reference_config()
    backend = CpuBackend(random_model(config), config.max_position_embeddings, best_library())
    sequences = PooledSequences(config, backend, 1, _LENGTH)  # written all over, so they have their memory
    prompt = random_ids(config, _LENGTH)[0].tolist()
    sequences.step([sequences.segment(0, prompt[:1])])
    sequences.lengths[0] = 0

    def run() -> int:
        for first in range(0, _LENGTH, _CHUNK_TOKENS):
            sequences.step([sequences.segment(0, prompt[first : first + _CHUNK_TOKENS])])
        return 0

    return run


def _transformers() -> Callable[[], int]:
    from benchmarks.engine_decode import reference_config
    from tests.numerics.small_models import random_ids, random_model
    from tests.numerics.transformers_peer import transformers_model

    config = reference_config()
    peer = transformers_model(random_model(config), experts="grouped_mm")
    ids = random_ids(config, _LENGTH)

    @torch.inference_mode()
    def run() -> int:
        output = peer(input_ids=ids, use_cache=True, logits_to_keep=1)
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in output.past_key_values.layers)

    peer(input_ids=ids[:, :8])
    return run


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    main(sys.argv[1:])
