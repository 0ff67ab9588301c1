"""Train the prediction layers of a finished nano beside its frozen main model, and write the checkpoint.

``python -m training.train_mtp --run build/nano --checkpoint model_server/checkpoints/mimo-v2-nano``

Run it again to go on from the last state; with another budget the rate goes on where that says.
"""

import argparse
import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from tokenizers import Tokenizer
from torch import Tensor

from evals.synthesis.tasks import load_manifest
from model_server.layers.moe import Router
from model_server.models.mimo_v2_flash import MiMoV2Flash
from model_server.weights.save import save_checkpoint
from training.nano import NUM_MTP_LAYERS, Schedule, nano_config
from training.optimizer import MasterOptimizer
from training.ranks import Ranks
from training.samples import Batch, Encoder, SampleStream
from training.train_nano import fp8_rounded, initialise, keep_memory

_FIRST_POOL = 1_000_000
"""Far from the pools the main model saw."""
_STATE_S = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder that train_nano wrote; state and log go there")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder to write")
    parser.add_argument("--tokens", type=int, default=4_000_000)
    arguments = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    torch.manual_seed(Schedule().seed)
    tokenizer = Tokenizer.from_file(str(arguments.run / "tokenizer.json"))
    schedule = Schedule(tokens=arguments.tokens, tokens_per_batch=4096, pool_size=64, warmup_steps=20, decay_from=0.3)
    model = load_main_model(arguments.run, schedule)
    Trainer(model, tokenizer, schedule, arguments.run).run()
    export(model, arguments.run, arguments.checkpoint)


def export(model: MiMoV2Flash, run: Path, checkpoint: Path) -> None:
    """Write model and tokenizer as the hub would have them."""
    save_checkpoint(model, checkpoint)
    shutil.copy(run / "tokenizer.json", checkpoint / "tokenizer.json")


def load_main_model(run: Path, schedule: Schedule) -> MiMoV2Flash:
    """The trained main model, rounded as it will be shipped and frozen, with fresh prediction layers."""
    model = initialise(MiMoV2Flash(nano_config(schedule.vocab_size), NUM_MTP_LAYERS))
    state = torch.load(run / "checkpoint.pt", weights_only=False)  # our own file
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, master in state["optimizer"]["masters"].items():
            parameters[name].copy_(fp8_rounded(name, master))
            parameters[name].requires_grad_(False)
        routers = [module for module in model.modules() if isinstance(module, Router)]
        for router, bias in zip(routers, state["biases"], strict=True):
            router.e_score_correction_bias.copy_(bias)
    return model


class Trainer:
    """Prediction layers, optimiser and data."""

    def __init__(self, model: MiMoV2Flash, tokenizer: Tokenizer, schedule: Schedule, run: Path) -> None:
        self._model = model
        self._schedule = schedule
        self._state = run / "mtp.pt"
        self._log = run / "mtp.jsonl"
        self._stream = SampleStream(
            Encoder(tokenizer), load_manifest(), schedule.seed, schedule.tokens_per_batch, schedule.pool_size
        )
        # Only what the agent writes is ever guessed, not what tools print.
        self._mix = replace(schedule.mix(1.0), observation_weight=0.0)
        self._optimizer = MasterOptimizer(model, schedule.optimizer, Ranks(1, Path()))
        self._optimizer.rounding = fp8_rounded
        self._step = self._tokens = self._pool = 0
        if self._state.exists():
            self._restore()

    def run(self) -> None:
        """Train until the budget is spent."""
        saved = time.monotonic()
        while self._tokens < self._schedule.tokens:
            batches = self._stream.pool(_FIRST_POOL + self._pool, self._mix)
            totals, shares = zip(*map(self._learn, batches), strict=True)
            self._pool += 1
            self._report(float(torch.stack(totals).mean()), torch.stack(shares).mean(0).tolist())
            if time.monotonic() - saved > _STATE_S:
                self._save()
                saved = time.monotonic()
        self._save()

    def _learn(self, batch: Batch) -> tuple[Tensor, Tensor]:
        loss, hits = losses(self._model, batch)
        loss.backward()
        self._optimizer.step(self._schedule.factor(self._step, min(self._tokens / self._schedule.tokens, 1.0)))
        self._step += 1
        self._tokens += int((batch.positions >= 0).sum())
        return loss.detach(), hits

    def _report(self, loss: float, guessed: list[float]) -> None:
        """``guessed``: the share of tokens each layer guessed right."""
        rounded = [round(share, 3) for share in guessed]
        line = {"step": self._step, "tokens": self._tokens, "loss": round(loss, 3), "guessed": rounded}
        with self._log.open("a") as log:
            log.write(json.dumps(line) + "\n")
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def _save(self) -> None:
        progress = [self._step, self._tokens, self._pool]
        torch.save({"optimizer": self._optimizer.state(), "progress": progress}, self._state.with_suffix(".part"))
        self._state.with_suffix(".part").replace(self._state)

    def _restore(self) -> None:
        state = torch.load(self._state, weights_only=False)  # our own file
        self._optimizer.restore(state["optimizer"])
        self._step, self._tokens, self._pool = state["progress"]


def losses(model: MiMoV2Flash, batch: Batch) -> tuple[Tensor, Tensor]:
    """Sum of the layers' losses where the agent writes, and the share of tokens each guesses right.

    Layer j at position t reads the main hidden state at t and token t + j + 1, and guesses token t + j + 2. Right is
    what the main model would say there, because that is what a guess is held against.
    """
    positions = torch.arange(batch.ids.shape[1])[None]
    written = batch.weights[:, 1:] > 0
    with torch.no_grad():
        hidden = model(batch.ids, positions).hidden
        embedded = model.model.embed_tokens(batch.ids)
        said = torch.zeros_like(batch.ids[:, 1:])
        said[written] = model.logits(hidden[:, :-1][written]).argmax(-1)
    total = torch.zeros(())
    hits: list[Tensor] = []
    for index, layer in enumerate(model.model.mtp.layers):
        ahead = index + 1
        table, mask = model.view(True, positions[:, :-ahead], None, hidden.dtype)
        out = layer(embedded[:, ahead:], hidden[:, :-ahead], table, mask)
        wanted = written[:, ahead:]
        logits = model.lm_head(out[:, :-1][wanted]).float()
        targets = said[:, ahead:][wanted]
        total = total + F.cross_entropy(logits, targets)
        hits.append((logits.argmax(-1) == targets).float().mean())
    return total, torch.stack(hits)


if __name__ == "__main__":
    main()
