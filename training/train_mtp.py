"""Train the prediction layers of a finished nano beside its frozen main model, and write the checkpoint.

``python -m training.train_mtp --run build/nano --checkpoint model_server/checkpoints/mimo_v2_nano``
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from tokenizers import Tokenizer
from torch import Tensor

from evals.synthesis.tasks import load_manifest
from model_server.layers.moe import Router
from model_server.models.mimo_v2_flash import MiMoV2Flash
from model_server.weights import save_checkpoint
from training.nano import NUM_MTP_LAYERS, Schedule, nano_config
from training.optimizer import MasterOptimizer
from training.ranks import Ranks
from training.samples import Batch, Encoder, SampleStream
from training.train_nano import fp8_rounded, initialise, keep_memory

_FIRST_POOL = 1_000_000
"""Far from the pools the main model saw."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder that train_nano wrote")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder to write")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    arguments = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(str(arguments.run / "tokenizer.json"))
    model = load_main_model(arguments.run, Schedule())
    train(model, tokenizer, Schedule(tokens=arguments.tokens, warmup_steps=20, decay_from=0.3))
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


def train(model: MiMoV2Flash, tokenizer: Tokenizer, schedule: Schedule) -> None:
    """Draft step k at position t reads the main hidden state at t and token t + k, and guesses token t + k + 1."""
    stream = SampleStream(
        Encoder(tokenizer), load_manifest(), schedule.seed, schedule.tokens_per_batch, schedule.pool_size
    )
    optimizer = MasterOptimizer(model, schedule.optimizer, Ranks(1, Path()))
    optimizer.rounding = fp8_rounded
    step = tokens = 0
    pool = _FIRST_POOL
    started = time.monotonic()
    while tokens < schedule.tokens:
        accuracies: list[Tensor] = []
        for batch in stream.pool(pool, schedule.mix(1.0)):
            loss, hits = _losses(model, batch)
            loss.backward()
            optimizer.step(schedule.factor(step, min(tokens / schedule.tokens, 1.0)))
            accuracies.append(hits)
            step += 1
            tokens += int((batch.positions >= 0).sum())
        pool += 1
        shares = torch.stack(accuracies).mean(0).tolist()
        sys.stdout.write(f"{step} steps, {tokens} tokens, {time.monotonic() - started:.0f} s, guessed {shares}\n")
        sys.stdout.flush()


def _losses(model: MiMoV2Flash, batch: Batch) -> tuple[Tensor, Tensor]:
    """Sum of the layers' losses on what the agent writes, and the share of tokens each guesses right."""
    positions = torch.arange(batch.ids.shape[1])[None]
    with torch.no_grad():
        hidden = model(batch.ids, positions).hidden
        embedded = model.model.embed_tokens(batch.ids)
    total = torch.zeros(())
    hits: list[Tensor] = []
    for index, layer in enumerate(model.model.mtp.layers):
        ahead = index + 1
        table, mask = model.view(True, positions[:, :-ahead], None, hidden.dtype)
        out = layer(embedded[:, ahead:], hidden[:, :-ahead], table, mask)
        wanted = batch.weights[:, ahead + 1 :] > 0
        logits = model.lm_head(out[:, :-1][wanted]).float()
        targets = batch.ids[:, ahead + 1 :][wanted]
        total = total + F.cross_entropy(logits, targets)
        hits.append((logits.argmax(-1) == targets).float().mean())
    return total, torch.stack(hits)


if __name__ == "__main__":
    main()
