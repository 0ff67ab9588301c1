"""The examples for pipelines: what they call is what the program takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from agent.cli.answer import AnswerForm
from agent.cli.app import app

FOLDER = Path(__file__).parents[3] / "deploy" / "ci-examples"
EXAMPLES = sorted(FOLDER.glob("*.yaml"))


def scripts(node: Any) -> Iterator[str]:
    """Everything that a shell is told to do."""
    match node:
        case dict():
            for key, value in node.items():
                yield from scripts([value]) if key not in ("run", "script") else _lines(value)
        case list():
            for value in node:
                yield from scripts(value)


def _lines(value: Any) -> Iterator[str]:
    for text in value if isinstance(value, list) else [value]:
        yield from text.splitlines()


def commands(path: Path) -> list[list[str]]:
    """Arguments of every call of ``mimo``."""
    found = []
    for line in scripts(yaml.safe_load(path.read_text())):
        for part in line.split("|"):
            if called := re.match(r"\s*mimo (.*)", part):
                words = shlex.split(called[1])
                found.append([word for at, word in enumerate(words) if word not in "<>" and words[at - 1] not in "<>"])
    return found


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_call_in_an_example_is_one_that_the_program_takes(path: Path) -> None:
    called = commands(path)
    assert called, path
    for words in called:
        command = typer.main.get_command(app)
        with command.make_context("mimo", list(words), resilient_parsing=False) as context:
            arguments = [*context._protected_args, *context.args]
            while arguments and hasattr(command, "resolve_command"):
                name, command, arguments = command.resolve_command(context, arguments)
                context = command.make_context(name, arguments, parent=context)
                arguments = [*getattr(context, "_protected_args", []), *context.args]
        assert context.info_name in ("run", "submit")


def test_the_schema_of_the_examples_is_one() -> None:
    form = AnswerForm.read(FOLDER / "findings.json")
    assert form.problem('{"findings": [{"file": "a.py", "severity": "high", "what": "it divides by zero"}]}') == ""
    assert form.problem('{"findings": [{"file": "a.py"}]}')
