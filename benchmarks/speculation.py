"""Does guessing ahead pay? The shipped checkpoint on its own work, without guesses and with each source of them.

    python -m benchmarks.speculation

Prints tokens per second of CPU time (one thread, the compiled step where it can be had) and writes
``build/bench/speculation.json``. Prompts are all turns of fresh repair tasks, as an agent meets them: random tokens
cannot be guessed and prove nothing. As many as run at once go as a group; the time of a group is the best of several
rounds taken in turn.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from evals.synthesis.tasks import TaskSource, load_manifest
from model_server.chat.template import render
from model_server.chat.tokens import ChatTokenizer
from model_server.engine.backend import KernelChoice, choose_kernels
from model_server.engine.cache_plan import plan_cache
from model_server.engine.draft_policy import NO_SPECULATION, Speculation
from model_server.engine.engine import EmbeddedEngine
from model_server.types import GenerateRequest, SamplingParams
from model_server.weights.load import load_model
from training.episodes import TOOLS, EpisodeMix, Expert

_CHECKPOINT = Path("model_server/checkpoints/mimo-v2-nano")
_REPORT = Path("build/bench/speculation.json")
_NUM_TASKS = 12
_MAX_TOKENS = 160
_ROUNDS = 8
_CONTEXT = 16384


_MODES = {
    "plain": NO_SPECULATION,
    "own past": Speculation(layers=0),
    "prediction layers": Speculation(lookup=0),
    "both": Speculation(),
}


@dataclass(frozen=True, slots=True)
class Result:
    """One way of guessing with so many sequences at once."""

    batch: int
    mode: str
    tokens_per_s: float
    ratio: float
    """To the plain engine in the same run."""
    guesses: int
    held: int


async def measure(batch: int, kernels: KernelChoice) -> list[Result]:
    """All engines answer the same prompts, in turn, as often as there are rounds."""
    requests = _requests(ChatTokenizer.load(_CHECKPOINT))
    groups = [requests[first : first + batch] for first in range(0, len(requests), batch)]
    engines = {mode: _engine(batch, len(requests), allowed, kernels) for mode, allowed in _MODES.items()}
    best = {mode: [inf] * len(groups) for mode in engines}
    num_tokens = 0
    for _ in range(_ROUNDS):
        num_tokens = 0
        for index, group in enumerate(groups):
            for mode, engine in engines.items():
                tokens, seconds = await _timed(engine, group)
                best[mode][index] = min(best[mode][index], seconds)
            num_tokens += tokens
    results = []
    for mode, engine in engines.items():
        stats = engine.stats()
        seconds, plain = sum(best[mode]), sum(best["plain"])
        results.append(Result(batch, mode, num_tokens / seconds, plain / seconds, stats.drafted, stats.accepted))
        await engine.close()
    return results


def _engine(batch: int, num_requests: int, allowed: Speculation, kernels: KernelChoice) -> EmbeddedEngine:
    model = load_model(_CHECKPOINT, torch.float32, keep_fp8=kernels.name == "cpu")
    backend, drafter = kernels.build(model, model.config.max_position_embeddings)
    plan = replace(plan_cache(model.config, torch.float32, batch, _CONTEXT), num_snapshots=2 * num_requests)
    return EmbeddedEngine(
        model,
        max_running=batch,
        context_length=_CONTEXT,
        plan=plan,
        speculation=allowed,
        backend=backend,
        drafter=drafter,
    )


def _requests(tokenizer: ChatTokenizer) -> list[GenerateRequest]:
    random = Random("speculation")
    source, expert = TaskSource(random, load_manifest(), names="heldout"), Expert(random, EpisodeMix())
    sampling = SamplingParams(temperature=0.0, max_tokens=_MAX_TOKENS, stop_ids=tokenizer.end_ids)
    return [
        GenerateRequest("x", tuple(tokenizer.encode(render(messages, TOOLS, enable_thinking=True))), sampling)
        for _ in range(_NUM_TASKS)
        for messages in _turns(expert.solve(source.make()).messages)
    ]


def _turns(messages: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """A conversation up to each answer of the agent."""
    return (messages[:end] for end, message in enumerate(messages) if message["role"] == "assistant")


async def _timed(engine: EmbeddedEngine, group: Sequence[GenerateRequest]) -> tuple[int, float]:
    """Generated tokens, and seconds of CPU time. All but a prompt's last token is cached from the second round on."""
    started = time.process_time()
    counts = await asyncio.gather(*(_answer(engine, request) for request in group))
    return sum(counts), time.process_time() - started


async def _answer(engine: EmbeddedEngine, request: GenerateRequest) -> int:
    num_tokens = 0
    async for _ in engine.generate(request):
        num_tokens += 1
    return num_tokens


def main() -> None:
    torch.set_num_threads(1)
    kernels = choose_kernels("auto")
    results = [result for batch in (1, 4, 8) for result in asyncio.run(measure(batch, kernels))]
    table = Table("sequences at once", "guesses from", "tok/s", "ratio", "guesses", "held", title=_title(kernels))
    for result in results:
        held = f"{result.held / result.guesses:.0%}" if result.guesses else ""
        cells = [f"{result.tokens_per_s:.0f}", f"{result.ratio:.2f}x", str(result.guesses), held]
        table.add_row(str(result.batch), result.mode, *cells)
    Console().print(table)
    _REPORT.parent.mkdir(parents=True, exist_ok=True)
    record = {"torch": torch.__version__, "kernels": kernels.name, "results": [asdict(result) for result in results]}
    _REPORT.write_text(json.dumps(record, indent=2) + "\n", "utf-8")


def _title(kernels: KernelChoice) -> str:
    return f"kernels {kernels.name} ({kernels.reason}), one thread"


if __name__ == "__main__":
    main()
