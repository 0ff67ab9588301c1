"""How long does a request wait for its first token: with its history cached or not, alone or among many?

    python -m benchmarks.first_token

The 12 M reference configuration with random weights, one thread, the best of several rounds taken in turn; wall time
through the engine's door, so read the ratios. Writes ``build/bench/first_token.json``.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.engine_decode import reference_config
from model_server.engine.backend import choose_kernels
from model_server.engine.engine import EmbeddedEngine
from model_server.types import GenerateRequest, SamplingParams
from tests.numerics.small_models import random_ids, random_model

_REPORT = Path("build/bench/first_token.json")
_HISTORY = 4096
_NEW = 20
_WAITING = 32
_PROMPT = 512
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Result:
    """Seconds to the first token."""

    kernels: str
    cold_s: float
    """Of a history that nobody has sent before."""
    warm_s: float
    """Of the same history and a few tokens more."""
    session_s: float
    """Of a session's next request."""
    mean_among_many_s: float
    """Of requests that arrive together, with prompts of their own."""
    longest_among_many_s: float

    @property
    def cold_to_warm(self) -> float:
        return self.cold_s / self.warm_s

    @property
    def longest_to_mean(self) -> float:
        return self.longest_among_many_s / self.mean_among_many_s


async def measure() -> Result:
    config, kernels = reference_config(), choose_kernels("auto")
    model = random_model(config)
    backend, drafter = kernels.build(model, config.max_position_embeddings)
    engine = EmbeddedEngine(model, max_running=_WAITING, backend=backend, drafter=drafter)
    rounds = []
    for index in range(_ROUNDS):
        history: list[int] = random_ids(config, _HISTORY, index)[0].tolist()
        new: list[int] = random_ids(config, _NEW, index + 1000)[0].tolist()
        cold = await _first_token(engine, history)
        warm = await _first_token(engine, history + new)
        await _first_token(engine, history[::-1], session=f"round {index}")
        session = await _first_token(engine, [*history[::-1], 0, *new], session=f"round {index}")
        rounds.append((cold, warm, session))
    crowds = []
    for index in range(_ROUNDS):
        prompts = random_ids(config, _PROMPT, seed=index + 2000, batch=_WAITING).tolist()
        waits = await asyncio.gather(*(_first_token(engine, prompt) for prompt in prompts))
        crowds.append((mean(waits), max(waits)))
    await engine.close()
    cold, warm, session = (min(times) for times in zip(*rounds, strict=True))
    return Result(kernels.name, cold, warm, session, *min(crowds))


async def _first_token(engine: EmbeddedEngine, prompt: Sequence[int], session: str | None = None) -> float:
    """The token is always 0, so that a session's next prompt can be written down before."""
    sampling = SamplingParams(temperature=0.0, max_tokens=1, logit_bias=((0, 1e6),))
    started = time.perf_counter()
    async for _ in engine.generate(GenerateRequest("x", tuple(prompt), sampling, session_id=session)):
        pass
    return time.perf_counter() - started


def main() -> None:
    torch.set_num_threads(1)
    result = asyncio.run(measure())
    table = Table("what", "value", title=f"first token, kernels {result.kernels}")
    table.add_row(f"cold, {_HISTORY} tokens", f"{1000 * result.cold_s:.0f} ms")
    table.add_row(f"warm, {_NEW} tokens more", f"{1000 * result.warm_s:.1f} ms ({result.cold_to_warm:.0f}x)")
    table.add_row("session, as many more", f"{1000 * result.session_s:.1f} ms")
    table.add_row(f"mean of {_WAITING} prompts of {_PROMPT}", f"{1000 * result.mean_among_many_s:.0f} ms")
    table.add_row(
        "longest of them", f"{1000 * result.longest_among_many_s:.0f} ms ({result.longest_to_mean:.2f}x mean)"
    )
    Console().print(table)
    _REPORT.parent.mkdir(parents=True, exist_ok=True)
    ratios = {"cold_to_warm": result.cold_to_warm, "longest_to_mean": result.longest_to_mean}
    _REPORT.write_text(json.dumps(asdict(result) | ratios, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
