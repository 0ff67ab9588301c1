"""Does guessing ahead pay? The shipped checkpoint on its own work, with and without its prediction layers.

    python -m benchmarks.speculation

Prints tokens per second of CPU time (one thread, f32), the best of several rounds taken in turn, and writes
``build/bench/speculation.json``. Prompts are fresh repair tasks: random tokens cannot be guessed and prove nothing.
"""

import asyncio
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
from rich.console import Console
from rich.table import Table

from evals.synthesis.tasks import TaskSource, load_manifest
from model_server.chat.template import render
from model_server.chat.tokens import ChatTokenizer
from model_server.engine.engine import EmbeddedEngine
from model_server.types import GenerateRequest, SamplingParams
from model_server.weights import load_model
from training.episodes import TOOLS, EpisodeMix, Expert

_CHECKPOINT = Path("model_server/checkpoints/mimo-v2-nano")
_REPORT = Path("build/bench/speculation.json")
_NUM_PROMPTS = 32
_MAX_TOKENS = 160
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Result:
    """Tokens per second with so many sequences at once."""

    batch: int
    plain: float
    guessing: float
    accept_rate: float
    """Share of guesses that were right."""

    @property
    def ratio(self) -> float:
        return self.guessing / self.plain


async def measure(batch: int) -> Result:
    """Both engines answer the same prompts, in turn, as often as there are rounds."""
    requests = _requests(ChatTokenizer.load(_CHECKPOINT))
    model = load_model(_CHECKPOINT, torch.float32)
    engines = [EmbeddedEngine(model, max_running=batch, speculate=guessing) for guessing in (False, True)]
    rounds = [[await _rate(engine, requests, batch) for engine in engines] for _ in range(_ROUNDS)]
    stats = engines[1].stats()
    for engine in engines:
        await engine.close()
    plain, guessing = (max(side) for side in zip(*rounds, strict=True))
    return Result(batch, plain, guessing, stats.accepted / stats.drafted)


def _requests(tokenizer: ChatTokenizer) -> list[GenerateRequest]:
    random = Random("speculation")
    source, expert = TaskSource(random, load_manifest(), names="heldout"), Expert(random, EpisodeMix())
    sampling = SamplingParams(temperature=0.0, max_tokens=_MAX_TOKENS, stop_ids=tokenizer.end_ids)
    conversations = [expert.look(source.make()).messages for _ in range(_NUM_PROMPTS)]
    return [
        GenerateRequest("x", tuple(tokenizer.encode(render(messages, TOOLS, enable_thinking=True))), sampling)
        for messages in conversations
    ]


async def _rate(engine: EmbeddedEngine, requests: list[GenerateRequest], batch: int) -> float:
    """Generated tokens per second of CPU time; reading the prompts takes part of it, on both sides."""
    free = asyncio.Semaphore(batch)
    num_tokens = 0

    async def answer(request: GenerateRequest) -> None:
        nonlocal num_tokens
        async with free:
            async for _ in engine.generate(request):
                num_tokens += 1

    started = time.process_time()
    await asyncio.gather(*map(answer, requests))
    return num_tokens / (time.process_time() - started)


def main() -> None:
    torch.set_num_threads(1)
    results = [asyncio.run(measure(batch)) for batch in (1, 4, 8)]
    table = Table(
        "sequences at once", "plain tok/s", "guessing tok/s", "ratio", "guesses right", title="f32, one thread"
    )
    for result in results:
        cells = [f"{result.plain:.0f}", f"{result.guessing:.0f}", f"{result.ratio:.2f}x", f"{result.accept_rate:.0%}"]
        table.add_row(str(result.batch), *cells)
    Console().print(table)
    _REPORT.parent.mkdir(parents=True, exist_ok=True)
    record = {"torch": torch.__version__, "results": [asdict(r) | {"ratio": r.ratio} for r in results]}
    _REPORT.write_text(json.dumps(record, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
