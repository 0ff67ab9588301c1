"""Time to the first token of a turn that continues 4,096 cached tokens, beside the same turn without a cache.

    python -m benchmarks.warm_turn

One engine, the reference configuration of ``benchmarks.engine_decode``, wall time, the median of several turns.
"""

import asyncio
import statistics
import time

import torch

from benchmarks.engine_decode import reference_config
from model_server.engine.backend import choose_kernels
from model_server.engine.engine import EmbeddedEngine
from model_server.types import GenerateRequest, SamplingParams
from tests.numerics.small_models import random_ids, random_model

_CACHED = 4096
_NEW = 32
_TURNS = 7


async def main() -> None:
    torch.set_num_threads(1)
    config = reference_config()
    model = random_model(config)
    kernels = choose_kernels("auto")
    backend, drafter = kernels.build(model, config.max_position_embeddings)
    engine = EmbeddedEngine(model, backend=backend, drafter=drafter)
    cold, warm = [], []
    for turn in range(_TURNS):
        prompt = random_ids(config, _CACHED, seed=turn)[0].tolist()
        continued = [*prompt, *random_ids(config, _NEW, seed=100 + turn)[0].tolist()]
        cold.append(await _first_token_s(engine, prompt, f"cold-{turn}"))
        warm.append(await _first_token_s(engine, continued, f"warm-{turn}"))
    await engine.close()
    medians = [1000 * statistics.median(times) for times in (cold, warm)]
    print(f"kernels {kernels.name} ({kernels.reason})")
    print(f"first token after {_CACHED} tokens: {medians[0]:.1f} ms")
    ratio = medians[0] / medians[1]
    print(f"after {_NEW} tokens on {_CACHED} cached ones: {medians[1]:.2f} ms, {ratio:.0f} times as fast")


async def _first_token_s(engine: EmbeddedEngine, prompt: list[int], request_id: str) -> float:
    sampling = SamplingParams(temperature=0, max_tokens=1)
    start = time.perf_counter()
    async for _ in engine.generate(GenerateRequest(request_id, tuple(prompt), sampling)):
        return time.perf_counter() - start
    raise AssertionError("no token")


if __name__ == "__main__":
    asyncio.run(main())
