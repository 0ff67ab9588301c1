"""Collect the model's own wrong edits: ``python -m training.mistakes --run build/nano --out build/mistakes.jsonl``.

An expert's random mistakes are not the model's. Greedily asked again, a model makes its own again; shown with their
failing tests, they teach it to choose something else (``--mistakes`` of ``training.train_nano``). Tasks are of the
training split.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from random import Random

from tokenizers import Tokenizer

from evals.synthesis.tasks import Endless, Manifest, load_manifest
from model_server.chat.markers import IM_END
from training.episodes import Episode, EpisodeMix, Expert, Mistake
from training.nano import Schedule
from training.pytest_text import pytest_output
from training.rollout import Attempt, generate
from training.samples import Encoder, numbered_task
from training.train_mtp import load_main_model
from training.train_nano import keep_memory

_BATCH = 64
_MAX_NEW = 320


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of a training run")
    parser.add_argument("--out", type=Path, required=True, help="file to add to")
    parser.add_argument("--first", type=int, default=0, help="number of the first task")
    parser.add_argument("--tasks", type=int, default=2048)
    arguments = parser.parse_args()
    keep_memory()
    model = load_main_model(arguments.run, Schedule())
    tokenizer = Tokenizer.from_file(str(arguments.run / "tokenizer.json"))
    encoder = Encoder(tokenizer)
    stop = tokenizer.get_vocab()[IM_END]
    num_found = num_right = 0
    for first in range(arguments.first, arguments.first + arguments.tasks, _BATCH):
        attempts = [_begin(number, load_manifest()) for number in range(first, first + _BATCH)]
        prompts = [encoder.encode_prompt(Episode(attempt.messages, [])) for attempt in attempts]
        with arguments.out.open("a", encoding="utf-8") as file:
            for number, (attempt, ids) in enumerate(
                zip(attempts, generate(model, prompts, stop, 0.0, _MAX_NEW), strict=True), first
            ):
                attempt.act(tokenizer.decode(ids, skip_special_tokens=False))
                num_right += attempt.resolved
                if _fails(attempt):
                    file.write(json.dumps(dataclasses.asdict(_mistake(number, attempt))) + "\n")
                    num_found += 1
        sys.stdout.write(f"{first + _BATCH - arguments.first} tasks: {num_right} right, {num_found} wrong\n")
        sys.stdout.flush()


def _begin(number: int, manifest: Manifest) -> Attempt:
    """Task ``number``, with the file before the model's eyes."""
    random = Random(number)
    task = numbered_task(number, manifest)
    return Attempt(task, dict(task.files), Expert(random, EpisodeMix()).look(task).messages, random)


def _mistake(number: int, attempt: Attempt) -> Mistake:
    turn = next(message for message in reversed(attempt.messages) if message["role"] == "assistant")
    _, old, new = attempt.edits[0]
    return Mistake(number, turn["reasoning_content"], old, new)


def _fails(attempt: Attempt) -> bool:
    """Whether an edit was made that runs and does not repair. What does not even compile is left out."""
    if not attempt.edits or attempt.edits[0][0] != attempt.task.bugs[0].path:
        return False
    try:
        return pytest_output(attempt.task, attempt.files, attempt.random)[1] != 0
    except (Endless, SyntaxError):
        return False


if __name__ == "__main__":
    main()
