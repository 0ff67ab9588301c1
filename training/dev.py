"""Measure a training run on fresh tasks with held-out names: ``python -m training.dev --run build/nano``.

Here choices of data, curriculum and schedule belong, so that the exam of ``evals`` can confirm the result. The tasks
are drawn as the exam draws, from another seed.
"""

import argparse
import json
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random

from tokenizers import Tokenizer

from evals.suite import cannot_be_known
from evals.synthesis.tasks import RepairTask, TaskSource, load_manifest
from model_server.models.mimo_v2_flash import MiMoV2Flash
from training.nano import Schedule
from training.rollout import Attempt, attempt_all
from training.train_mtp import load_main_model
from training.train_nano import keep_memory

_SEED = "dev 7"
_MAX_TURNS = 14
_BATCH = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of a training run")
    parser.add_argument("--tasks", type=int, default=60, help="the first so many, always the same ones")
    arguments = parser.parse_args()
    keep_memory()
    tokenizer = Tokenizer.from_file(str(arguments.run / "tokenizer.json"))
    model = load_main_model(arguments.run, Schedule())
    last = (arguments.run / "log.jsonl").read_text("utf-8").splitlines()[-1]
    line = {"tokens": json.loads(last)["tokens"], **measure(model, tokenizer, dev_tasks(arguments.tasks))}
    with (arguments.run / "dev.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")
    sys.stdout.write(f"{line}\n")


def dev_tasks(count: int) -> list[RepairTask]:
    """Tasks of seen families and kinds with held-out names, none of them in the exam."""
    source = TaskSource(Random(_SEED), load_manifest(), names="heldout")
    drawn = filter(cannot_be_known, iter(source.make, None))
    return list(islice(drawn, count))


def measure(model: MiMoV2Flash, tokenizer: Tokenizer, tasks: list[RepairTask]) -> dict[str, object]:
    """How many tasks are fixed greedily, how many by the first edit, and what each kind of bug's share is."""
    attempts = attempt_all(model, tokenizer, tasks, max_turns=_MAX_TURNS, batch_size=_BATCH)
    fixed = [attempt for attempt in attempts if attempt.resolved]
    totals, hits = Counter(map(_kind, attempts)), Counter(map(_kind, fixed))
    return {
        "tasks": len(tasks),
        "fixed": len(fixed),
        "by_first_edit": sum(len(attempt.edits) == 1 for attempt in fixed),
        "by_kind": {kind: [hits[kind], totals[kind]] for kind in sorted(totals)},
    }


def _kind(attempt: Attempt) -> str:
    return attempt.task.bugs[0].kind


if __name__ == "__main__":
    main()
