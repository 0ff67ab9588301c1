"""Train mimo-v2-nano from scratch: ``python -m training.train_nano --out build/nano``.

Run it again to go on from the last checkpoint: the data is a function of the pool number, so it resumes exactly.
"""

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F  # noqa: N812
from tokenizers import Tokenizer
from torch import Tensor, nn

from evals.synthesis.tasks import Endless, TaskSource, load_manifest
from model_server.chat.template import render_text
from model_server.kernels.fp8 import dequantize_blocks, quantize_blocks
from model_server.layers.moe import Router
from model_server.models.mimo_v2_flash import MiMoV2Flash
from training.episodes import TOOLS, EpisodeMix, Expert, Mistake
from training.nano import Schedule, nano_config
from training.optimizer import MasterOptimizer
from training.ranks import Ranks
from training.samples import Batch, Encoder, SampleStream, read_mistakes
from training.tokenizer import train_tokenizer

_CHECKPOINT_S = 120.0
_REPORT_STEPS = 20


@dataclass(slots=True)
class Progress:
    """Where training stands; ``pool`` is the data cursor."""

    step: int = 0
    tokens: int = 0
    pool: int = 0
    seconds: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints, tokenizer and log")
    parser.add_argument("--tokens", type=int, default=Schedule().tokens, help="token budget of the schedule")
    parser.add_argument("--start-from", type=Path, help="run whose weights and tokenizer to begin with")
    parser.add_argument("--peak", type=float, default=1.0, help="factor of all rates, below 1 with --start-from")
    parser.add_argument("--mistakes", type=Path, help="what training.mistakes wrote")
    parser.add_argument("--processes", type=int, default=1, help="one per core that is free")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this long; run again to go on")
    arguments = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    started = arguments.start_from is not None
    schedule = Schedule(
        tokens=arguments.tokens, peak=arguments.peak, curriculum_until=0.0 if started else Schedule().curriculum_until
    )
    if started and not (arguments.out / "tokenizer.json").exists():
        shutil.copy(arguments.start_from / "tokenizer.json", arguments.out)
    tokenizer = prepare_tokenizer(arguments.out / "tokenizer.json", schedule)
    ranks = Ranks(arguments.processes, arguments.out / "rendezvous")
    trainer = Trainer(
        schedule, tokenizer, arguments.out, ranks, arguments.start_from, read_mistakes(arguments.mistakes)
    )
    trainer.run(stop_at=time.monotonic() + arguments.minutes * 60)
    ranks.close()


def prepare_tokenizer(path: Path, schedule: Schedule) -> Tokenizer:
    """Load the tokenizer, or train it on the first episodes."""
    if not path.exists():
        train_tokenizer(prepare_texts(schedule.tokenizer_episodes, schedule.seed), schedule.vocab_size).save(str(path))
    return Tokenizer.from_file(str(path))


def prepare_texts(count: int, seed: int) -> list[str]:
    """Rendered episodes for the tokenizer to learn from."""
    random = Random(f"{seed}/tokenizer")
    source, expert = TaskSource(random, load_manifest()), Expert(random, EpisodeMix())
    texts: list[str] = []
    while len(texts) < count:
        try:
            episode = expert.solve(source.make())
        except Endless:
            continue
        texts.append(render_text(episode.messages, TOOLS, enable_thinking=True, add_generation_prompt=False))
    return texts


class Trainer:
    """Model, optimiser and data of one training run."""

    def __init__(
        self,
        schedule: Schedule,
        tokenizer: Tokenizer,
        out: Path,
        ranks: Ranks,
        start_from: Path | None = None,
        mistakes: Sequence[Mistake] = (),
    ) -> None:
        torch.manual_seed(schedule.seed)
        self._ranks = ranks
        self._schedule = schedule
        self._out = out
        self.model = initialise(MiMoV2Flash(nano_config(schedule.vocab_size)))
        self._routers = [module for module in self.model.modules() if isinstance(module, Router)]
        self._optimizer = MasterOptimizer(self.model, schedule.optimizer, ranks)
        encoder = Encoder(tokenizer)
        self._stream = SampleStream(
            encoder,
            load_manifest(),
            schedule.seed,
            schedule.tokens_per_batch // ranks.size,
            schedule.pool_size,
            mistakes,
        )
        self.progress = Progress()
        if (out / "checkpoint.pt").exists():
            self.progress = self._restore(out / "checkpoint.pt")
        elif start_from is not None:
            self.progress.pool = self._restore(start_from / "checkpoint.pt").pool  # the data goes on

    def run(self, stop_at: float) -> None:
        """Train until the budget is spent or the time is over."""
        saved = time.monotonic()
        while self._ranks.same(not self.is_done and time.monotonic() < stop_at):
            losses = self.run_pool()
            if self._ranks.rank:
                continue
            self._report(losses)
            if time.monotonic() - saved > _CHECKPOINT_S:
                self.save()
                saved = time.monotonic()
        if not self._ranks.rank:
            self.save()

    def run_pool(self) -> list[float]:
        """Train on the next pool of episodes; returns the action loss of every step."""
        share = self.progress.tokens / self._schedule.tokens
        self._optimizer.rounding = fp8_rounded if share >= self._schedule.round_from else None
        losses: list[float] = []
        pool = self.progress.pool
        batches = self._stream.pool(pool + self._ranks.rank, self._schedule.mix(share), order=pool)
        for batch in batches[: self._ranks.least(len(batches))]:
            started = time.monotonic()
            losses.append(self._step(batch))
            self.progress.seconds += time.monotonic() - started
        self.progress.pool += self._ranks.size
        return losses

    def _step(self, batch: Batch) -> float:
        progress = self.progress
        positions = torch.arange(batch.ids.shape[1])[None]  # padding comes last: causal masks hide it
        output = self.model(batch.ids, positions)
        wanted = batch.weights[:, 1:] > 0
        logits = self.model.logits(output.hidden[:, :-1][wanted]).float()
        losses = F.cross_entropy(logits, batch.targets[:, 1:][wanted], reduction="none")
        weights = batch.weights[:, 1:][wanted]
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()
        self._optimizer.step(self._schedule.factor(progress.step, progress.tokens / self._schedule.tokens))
        assert output.experts is not None
        self._balance(output.experts)
        progress.step += 1
        progress.tokens += self._ranks.total(int((batch.positions >= 0).sum()))
        acted = weights >= 1
        return float(losses[acted].mean().detach())

    @torch.no_grad()
    def _balance(self, experts: Tensor) -> None:
        """Move each router's bias towards equal load: it decides the choice only, never the weight."""
        loads = [
            torch.bincount(experts[:, :, index].flatten(), minlength=len(router.weight)).float()
            for index, router in enumerate(self._routers)
        ]
        self._ranks.average(loads)
        for router, load in zip(self._routers, loads, strict=True):
            router.e_score_correction_bias.add_((load.mean() - load).sign(), alpha=self._schedule.router_bias_rate)

    def _report(self, losses: list[float]) -> None:
        progress = self.progress
        line = {
            "step": progress.step,
            "tokens": progress.tokens,
            "action_loss": round(sum(losses) / len(losses), 4),
            "tokens_per_s": round(progress.tokens / max(progress.seconds, 1e-9)),
            "minutes": round(progress.seconds / 60, 1),
        }
        with (self._out / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def save(self) -> None:
        """Write everything that is needed to go on, replacing the last checkpoint as a whole."""
        progress = self.progress
        state = {
            "optimizer": self._optimizer.state(),
            "biases": [router.e_score_correction_bias for router in self._routers],
            "progress": [progress.step, progress.tokens, progress.pool, progress.seconds],
        }
        path = self._out / "checkpoint.pt"
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    @property
    def is_done(self) -> bool:
        return self.progress.tokens >= self._schedule.tokens

    def _restore(self, path: Path) -> Progress:
        state = torch.load(path, weights_only=False)  # our own file
        self._optimizer.restore(state["optimizer"])
        with torch.no_grad():
            for router, bias in zip(self._routers, state["biases"], strict=True):
                router.e_score_correction_bias.copy_(bias)
        return Progress(*state["progress"])


_FP8_WEIGHT = re.compile(r"\.(?:[qkv]_proj\.weight|(?:gate|up|down)_proj\.weight|experts\.\w+)$")


def fp8_rounded(name: str, weight: Tensor) -> Tensor:
    """The weight as FP8 blocks would give it back; weights that are shipped in bf16 are returned as they are."""
    if not _FP8_WEIGHT.search(name):
        return weight
    return dequantize_blocks(*quantize_blocks(weight))


def initialise(model: MiMoV2Flash) -> MiMoV2Flash:
    """Normal weights of 0.02, outputs of blocks smaller; matrices in bf16, norms, routers and sinks in f32."""
    depth = 2 * model.config.num_hidden_layers
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            continue
        std = 0.02 / depth**0.5 if name.endswith(("o_proj.weight", "down_proj.weight", "experts.down")) else 0.02
        nn.init.normal_(parameter, std=std)
        if not name.endswith("mlp.gate.weight"):
            parameter.data = parameter.data.bfloat16()
    return model


def keep_memory() -> None:
    """Start again with an allocator that keeps its memory: giving it back after every step halves the speed."""
    wanted = {
        "MALLOC_MMAP_THRESHOLD_": "4000000000",
        "MALLOC_TRIM_THRESHOLD_": "16000000000",
        "MALLOC_TOP_PAD_": "200000000",
        "OMP_WAIT_POLICY": "passive",
    }
    if all(name in os.environ for name in wanted):
        return
    os.environ.update(wanted)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - ourselves


if __name__ == "__main__":
    main()
