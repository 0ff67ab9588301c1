import json
from pathlib import Path

import torch

from model_server.weights.load import load_model
from training import train_mtp, train_nano
from training.nano import Schedule
from training.optimizer import orthogonalise
from training.ranks import Ranks
from training.train_nano import Trainer, prepare_tokenizer

VOCABULARY = 700


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((32, 64), (64, 32), (3, 32, 16)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.5


def test_rates_rise_then_fall_to_zero() -> None:
    schedule = Schedule(warmup_steps=10, decay_from=0.5)
    assert schedule.factor(0, 0.0) == 0.1
    assert schedule.factor(100, 0.4) == 1.0
    assert schedule.factor(100, 0.75) == 0.5
    assert schedule.factor(100, 1.0) == 0.0


def test_training_lowers_the_loss_resumes_where_it_stood_and_exports(tmp_path: Path) -> None:
    schedule = Schedule(
        tokens=20_000,
        tokens_per_batch=1024,
        pool_size=24,
        vocab_size=VOCABULARY,
        warmup_steps=5,
        tokenizer_episodes=100,
    )
    tokenizer = prepare_tokenizer(tmp_path / "tokenizer.json", schedule)
    trainer = Trainer(schedule, tokenizer, tmp_path, Ranks(1, tmp_path / "rendezvous"))
    losses = trainer.run_pool()
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    trainer.save()
    resumed = Trainer(schedule, tokenizer, tmp_path, Ranks(1, tmp_path / "rendezvous"))
    assert resumed.progress == trainer.progress
    for (name, mine), other in zip(trainer.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(mine, other), name
    model = train_mtp.load_main_model(tmp_path, schedule)
    for tokens in (1, 6000):  # the second goes on where the first stood
        few = Schedule(tokens=tokens, tokens_per_batch=1024, pool_size=4, warmup_steps=1)
        train_mtp.Trainer(model, tokenizer, few, tmp_path).run()
    steps = [json.loads(line)["step"] for line in (tmp_path / "mtp.jsonl").read_text("utf-8").splitlines()]
    assert len(steps) > 1
    assert steps == sorted(set(steps))
    train_mtp.export(model, tmp_path, tmp_path / "checkpoint")
    shipped = load_model(tmp_path / "checkpoint", torch.float32)
    assert shipped.num_mtp_layers == 3
    name = "model.layers.1.self_attn.q_proj.weight"
    expected = train_nano.fp8_rounded(name, dict(trainer.model.named_parameters())[name].float())
    # Rounded twice, by training and by the export: a value may end one step of e4m3 beside.
    difference = (dict(shipped.named_parameters())[name] - expected).abs().mean()
    assert difference < 0.05 * expected.abs().mean()
