"""Write the model card of a checkpoint from logs and reports; only ``about.txt`` and ``note.txt`` are typed by hand.

``python -m training.card --run build/nano --checkpoint model_server/checkpoints/mimo-v2-nano --reports build/eval``

``--run`` is given once for each leg of the training, in order, and ``--trial`` for each run made to compare. Their
folders hold the log of ``training.train_nano``, what ``training.dev`` measured, and ``about.txt``, a sentence on what
was new. The reports are what ``mimo eval run --output json`` printed (``greedy.json``, and ``attempts.json`` where
there is one) and ``mimo eval baseline --output json`` (``baseline.json``); ``note.txt`` beside them is what a reader of
the results must know.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from evals.report import Report
from evals.synthesis.tasks import load_manifest
from model_server.config import load_config
from model_server.weights.load import load_model

_NUM_FAILURES = 6
_LOG_ROWS = 8
_LATELY = 10
"""Last lines of a log that are averaged."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, action="append", help="the legs, in order")
    parser.add_argument("--trial", type=Path, default=[], action="append", help="a run made to compare")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--reports", type=Path, required=True)
    arguments = parser.parse_args()
    greedy = Report.model_validate_json((arguments.reports / "greedy.json").read_text("utf-8"))
    attempts_path = arguments.reports / "attempts.json"
    attempts = Report.model_validate_json(attempts_path.read_text("utf-8")) if attempts_path.exists() else None
    baseline = json.loads((arguments.reports / "baseline.json").read_text("utf-8"))["splits"]
    legs, trials = [_read(run) for run in arguments.run], [_read(run) for run in arguments.trial]
    note = (arguments.reports / "note.txt").read_text("utf-8").strip()
    lines = card(arguments.checkpoint, legs, trials, greedy, attempts, baseline, note)
    (arguments.checkpoint / "README.md").write_text("\n".join(lines) + "\n", "utf-8")


@dataclass(frozen=True, slots=True)
class Run:
    """One run of ``training.train_nano``."""

    about: str
    log: list[dict[str, Any]]
    dev: list[dict[str, Any]]
    mtp: list[dict[str, Any]]
    """The log of ``training.train_mtp``, which goes on from the last leg only."""

    @property
    def tokens(self) -> int:
        return int(self.log[-1]["tokens"])


def _read(folder: Path) -> Run:
    about = (folder / "about.txt").read_text("utf-8").strip()
    return Run(
        about, _json_lines(folder / "log.jsonl"), _json_lines(folder / "dev.jsonl"), _json_lines(folder / "mtp.jsonl")
    )


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def card(
    checkpoint: Path,
    legs: list[Run],
    trials: list[Run],
    greedy: Report,
    attempts: Report | None,
    baseline: dict[str, Any],
    note: str,
) -> Iterator[str]:
    """The card's lines."""
    yield "# mimo-v2-nano"
    yield ""
    yield (
        "A toy, trained from scratch on synthetic functions, with every part of MiMo-V2-Flash's architecture. It shows "
        "that the system works end to end and says nothing about MiMo-V2-Flash's quality. It repairs one wrong line in "
        "a small Python module of the kind it was trained on; it is no coder."
    )
    yield ""
    yield from _shape(checkpoint)
    yield from _training(legs, trials)
    yield from _results(greedy, attempts, baseline)
    yield note
    yield ""
    yield from _failures(greedy)


def _shape(checkpoint: Path) -> Iterator[str]:
    config = load_config(checkpoint)
    model = load_model(checkpoint, torch.float32)
    main = sum(p.numel() for name, p in model.named_parameters() if ".mtp." not in name)
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    active = main - experts + experts * config.num_experts_per_tok // config.n_routed_experts
    prediction = sum(p.numel() for name, p in model.named_parameters() if ".mtp." in name)
    pattern = "".join("GS"[kind] for kind in config.hybrid_layer_pattern)
    yield "## Shape"
    yield ""
    yield "| what | value |"
    yield "|---|---|"
    yield f"| parameters; active per token | {main:,}; {active:,} |"
    yield f"| {model.num_mtp_layers} prediction layers | {prediction:,} |"
    yield f"| layers (G global, S sliding window of {config.sliding_window} + 1 keys with sinks) | {pattern} |"
    yield f"| width; heads | {config.hidden_size}; {config.num_attention_heads} |"
    yield f"| key-value heads (G; S) | {config.num_key_value_heads}; {config.swa_num_key_value_heads} |"
    yield f"| query-key and value width of a head | {config.head_dim}, {config.v_head_dim} |"
    yield f"| rotary share of a head | {config.partial_rotary_factor} |"
    yield f"| experts; chosen per token | {config.n_routed_experts}; {config.num_experts_per_tok} |"
    yield f"| width of an expert; of dense layer 0 | {config.moe_intermediate_size}; {config.intermediate_size} |"
    yield f"| vocabulary | {config.vocab_size}, byte-level BPE; production's fixed strings are one token each |"
    yield "| weights | FP8 e4m3 in 128 x 128 blocks, hub layout |"
    yield ""
    yield (
        "Unlike the published model it ties embedding and head, and its prediction layers are narrow. The native "
        "profile's prompt and tool schemas are a handful of tokens to it: with any other prompt it is lost."
    )
    yield ""


def _training(legs: list[Run], trials: list[Run]) -> Iterator[str]:
    minutes = sum(leg.log[-1]["minutes"] for leg in legs)
    steps = sum(leg.log[-1]["step"] for leg in legs)
    yield "## Training"
    yield ""
    yield (
        f"{sum(leg.tokens for leg in legs):,} tokens in {steps:,} steps, {minutes:.0f} minutes of step time on two "
        "threads of a CPU: scripted repairs of generated repositories, imitated (`training/episodes.py`), "
        "loss on what the agent writes. Muon for matrices, AdamW for the rest, rates brought down to zero in the "
        "first, the fifth and the last leg; weights rounded to FP8 in the last stretch."
    )
    yield ""
    yield _prediction(legs[-1].mtp)
    yield ""
    yield (
        "Trained in legs, each going on from the one before. Fixed: of fresh tasks with held-out names, not the "
        "exam's, greedily and without a sandbox (`training/dev.py`); in brackets those fixed by the first edit. Legs "
        "differ in length, in their schedules and in where their rates stood, so the figures rank nothing."
    )
    yield ""
    yield from _runs(legs)
    if trials:
        yield "Compared at about equal tokens, each from the fifth leg's weights and at the same rates:"
        yield ""
        yield from _runs(trials)
    yield "| tokens | loss on the agent's own tokens |"
    yield "|---|---|"
    before = 0
    for leg in legs:
        rows = leg.log[:: max(len(leg.log) // _LOG_ROWS, 1)][:_LOG_ROWS]
        for row in [*rows, leg.log[-1]]:
            yield f"| {before + row['tokens']:,} | {row['action_loss']:.3f} |"
        before += leg.tokens
    yield ""


def _prediction(log: list[dict[str, Any]]) -> str:
    lately = [line["guessed"] for line in log[-_LATELY:]]
    shares = [f"{sum(share) / len(share):.0%}" for share in zip(*lately, strict=True)]
    return (
        f"The prediction layers were trained afterwards beside the frozen model, on {log[-1]['tokens']:,} tokens in "
        f"{log[-1]['step']} steps, to guess what it would say itself. At the end of that they guessed "
        f"{', '.join(shares)} right, one, two and three tokens after its own next one, each told the tokens before."
    )


def _runs(runs: list[Run]) -> Iterator[str]:
    yield "| what was new | tokens | fixed |"
    yield "|---|---|---|"
    for run in runs:
        measured = run.dev[-1] if run.dev else None
        fixed = f"{measured['fixed']}/{measured['tasks']} ({measured['by_first_edit']})" if measured else "not measured"
        yield f"| {run.about} | {run.tokens:,} | {fixed} |"
    yield ""


def _results(greedy: Report, attempts: Report | None, baseline: dict[str, Any]) -> Iterator[str]:
    manifest = load_manifest()
    yield "## What it repairs"
    yield ""
    yield (
        "Suite `nano-heldout` through the production path: REST API, worker, model server, sandbox, pytest; graded by "
        "hidden tests in a fresh sandbox. Every identifier is held out. `heldout_names`: seen function families and "
        "kinds of bugs. `heldout_families`: twelve families that training never broke or showed. `heldout_kinds`: "
        f"kinds of bugs never trained ({', '.join(sorted(manifest.heldout_kinds))}). One attempt at temperature 0; "
        "only where the agent goes round in circles its guard samples hotter. 95 % Wilson intervals."
    )
    yield ""
    heads = ("split", "tasks", "fixed, one greedy attempt", "four attempts, chosen by visible tests")
    yield f"| {' | '.join((*heads, 'enumeration of all edits', 'one random edit'))} |"
    yield "|---|---|---|---|---|---|"
    for name, split in greedy.splits.items():
        base = baseline[name]
        more = attempts.splits.get(name) if attempts else None
        cells = [name, str(split.total), _rate(split.model_dump()), _rate(more.model_dump()) if more else "not run"]
        cells += [_rate(base["enumeration"]), _rate(base["random_edit"])]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield (
        "The honest comparison is enumeration: it tries the generator's own list of single-place edits until the "
        f"visible tests pass ({baseline['heldout_names']['mean_candidates']:.0f} edits per task on "
        "average) and needs no model. It is strong on these closed families and useless anywhere else."
    )
    yield ""
    names = greedy.splits["heldout_names"]
    yield "| kind of bug (heldout_names) | fixed |"
    yield "|---|---|"
    for kind, kind_rate in sorted(names.by_kind.items()):
        yield f"| {kind} | {_rate(kind_rate.model_dump())} |"
    yield ""
    yield f"Verdicts on heldout_names: {_counts(names.verdicts)}. Stop reasons: {_counts(names.stop_reasons)}."
    yield ""


def _failures(greedy: Report) -> Iterator[str]:
    failures = [task for task in greedy.tasks if not task.resolved]
    chosen = Random(0).sample(failures, min(_NUM_FAILURES, len(failures)))
    yield "## Failures, drawn at random"
    yield ""
    for task in chosen:
        ending = f"{task.stop_reason}, verdict {task.verdict}, {task.steps} steps; {task.failing}"
        yield f"- `{task.id}` ({task.kind}): {ending}."


def _rate(fields: dict[str, Any]) -> str:
    low, high = fields["interval"]
    return f"{fields['resolved']}/{fields['total']} = {fields['rate']:.0%} ({low:.0%}-{high:.0%})"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


if __name__ == "__main__":
    main()
