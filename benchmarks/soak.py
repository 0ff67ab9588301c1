"""Does anything leak or go wrong under long random load? Requests that share, continue, depart, compete and leave.

    python -m benchmarks.soak --minutes 10

Runs the shipped checkpoint with too little memory for keys and values, so that prefixes leave and sequences are made to
stop, prints what it did, and writes ``build/bench/soak.json``. Some answers are compared with those of an engine that
keeps nothing and runs one sequence at a time. Exit code 1: an answer differed, or pages, rings or snapshots leaked.
"""

import argparse
import asyncio
import json
import resource
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

import torch
from rich.console import Console
from rich.table import Table

from model_server.config import ModelConfig
from model_server.engine.backend import choose_kernels
from model_server.engine.cache_plan import CachePlan
from model_server.engine.engine import EmbeddedEngine
from model_server.types import CacheStats, ContextLengthExceeded, GenerateRequest, Overloaded, SamplingParams
from model_server.weights.load import load_model

_CHECKPOINT = Path("model_server/checkpoints/mimo-v2-nano")
_REPORT = Path("build/bench/soak.json")
_CONTEXT = 2048
_CLIENTS = 24
_SCARCE = CachePlan(num_pages=48, num_snapshots=40, num_sessions=6)
_COLD = CachePlan(num_pages=32, num_snapshots=0, num_sessions=0)
_SESSIONS = "abcdefgh"
_COMPARED = 0.1
"""Share of answers that are generated again without any cache."""


@dataclass(slots=True)
class Report:
    """What a soak did and found."""

    kernels: str
    seconds: float = 0.0
    endings: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    cached_tokens: int = 0
    compared: int = 0
    different: int = 0
    preemptions: int = 0
    leaked_pages: int = 0
    leaked_rings: int = 0
    snapshots_left: int = 0
    resident_mib: dict[str, float] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        return not (self.different or self.leaked_pages or self.leaked_rings or self.snapshots_left)


class Soak:
    """Clients without manners, and what came of them."""

    def __init__(self, engine: EmbeddedEngine, cold: EmbeddedEngine, config: ModelConfig, report: Report) -> None:
        self._engine = engine
        self._cold = cold
        self._vocab_size = config.vocab_size
        self._report = report
        self._texts: list[list[int]] = []

    async def run(self, seconds: float) -> None:
        """Keep all clients busy for so long."""
        end = time.monotonic() + seconds
        await asyncio.gather(*(self._client(Random(index), end) for index in range(_CLIENTS)))

    async def _client(self, random: Random, end: float) -> None:
        while time.monotonic() < end:
            try:
                ending = await self._ask(random)
            except (Overloaded, ContextLengthExceeded) as error:
                ending = type(error).__name__
                await asyncio.sleep(0.1)
            self._report.endings[ending] = self._report.endings.get(ending, 0) + 1

    async def _ask(self, random: Random) -> str:
        request = self._request(random)
        patience = random.randint(0, 30) if random.random() < 0.3 else None
        answer = await self._answer(self._engine, request, patience)
        if patience is not None:
            return "cancelled"
        self._texts = [*self._texts[-40:], [*request.prompt_ids, *answer]]
        if random.random() < _COMPARED and len(request.prompt_ids) + len(answer) < _CONTEXT:
            self._report.compared += 1
            self._report.different += answer != await self._answer(self._cold, request, None)
        return "ended"

    def _request(self, random: Random) -> GenerateRequest:
        """Mostly a text from before, whole or cut, and something new."""
        base = random.choice(self._texts) if self._texts and random.random() < 0.8 else []
        base = base[: random.choice((len(base), random.randint(0, len(base))))][: _CONTEXT - 500]
        new = random.choices(range(self._vocab_size), k=random.choice((1, 5, 20, 150)))
        sampling = SamplingParams(
            temperature=random.choice((0.0, 0.8)), seed=random.randint(0, 9), max_tokens=random.choice((1, 20, 60, 300))
        )
        return GenerateRequest(
            "soak",
            (*base, *new),
            sampling,
            cache_salt=random.choice(("", "", "other")),
            session_id=random.choice(_SESSIONS) if random.random() < 0.2 else None,
            priority=random.choice((0, 0, 0, 1, -1)),
        )

    async def _answer(self, engine: EmbeddedEngine, request: GenerateRequest, patience: int | None) -> list[int]:
        tokens: list[int] = []
        async with aclosing(engine.generate(request)) as events:
            async for event in events:
                tokens.append(event.token_id)
                if engine is self._engine:
                    self._report.tokens += 1
                    self._report.cached_tokens += event.cached_tokens if len(tokens) == 1 else 0
                if patience is not None and len(tokens) > patience:
                    break
        return tokens


async def soak(minutes: float) -> Report:
    """Run it and look at what is left."""
    kernels = choose_kernels("auto")
    report = Report(kernels.name)
    engines = []
    for max_running, plan in ((8, _SCARCE), (1, _COLD)):
        model = load_model(_CHECKPOINT, torch.float32)
        backend, drafter = kernels.build(model, _CONTEXT)
        engines.append(
            EmbeddedEngine(
                model, max_running, max_waiting=12, context_length=_CONTEXT, plan=plan, backend=backend, drafter=drafter
            )
        )
    engine, cold = engines
    work = Soak(engine, cold, model.config, report)
    started = time.monotonic()
    for part, share in (("after a tenth", 0.1), ("at the end", 0.9)):
        await work.run(minutes * 60 * share)
        report.resident_mib[part] = _resident_mib()
    report.seconds = time.monotonic() - started
    while engine.stats().running or engine.stats().waiting:  # noqa: ASYNC110 (the engine has no event for it)
        await asyncio.sleep(0.01)
    report.preemptions = _cache(engine).preemptions
    for salt in ("", "other"):
        for name in _SESSIONS:
            await engine.drop_session(salt, name)
    await engine.flush_cache()
    cache = _cache(engine)
    report.leaked_pages, report.leaked_rings = cache.used_pages, cache.used_rings
    report.snapshots_left = cache.snapshots
    for each in engines:
        await each.close()
    return report


def _cache(engine: EmbeddedEngine) -> CacheStats:
    cache = engine.stats().cache
    assert cache is not None
    return cache


def _resident_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    torch.set_num_threads(1)
    report = asyncio.run(soak(parser.parse_args(arguments).minutes))
    table = Table("what", "result", title="soak")
    for name, value in asdict(report).items():
        table.add_row(name.replace("_", " "), str(dict(value) if isinstance(value, dict) else value))
    Console().print(table)
    _REPORT.parent.mkdir(parents=True, exist_ok=True)
    _REPORT.write_text(json.dumps(asdict(report), indent=2) + "\n", "utf-8")
    return 0 if report.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
