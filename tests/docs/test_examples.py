"""The examples on our pages are true.

A page's fences say how far they can be run here:

- ``python``: run, in order, in one namespace per page
- ``console``: each line after ``$ `` is run in the checkout; what follows is its output, where ``...`` stands for
  anything
- ``sh``: needs a running service or minutes; its syntax is checked, and that every target, command and option exists
- ``json``: parses
"""

import itertools
import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
from pydantic import BaseModel

from agent.api.completions.shapes import ChatRequest
from agent.api.evals import NewEval
from agent.api.mcp_servers import NewMcpServer
from agent.api.schedules import NewSchedule
from agent.api.schemas import MessageText
from agent.api.skills import NewSkill
from agent.api.webhooks import NewWebhook
from agent.cli.app import app
from agent.types import TaskRequest
from model_server.server.native_schema import parse_native

ROOT = Path(__file__).parents[2]
FOLDERS = ["agent", "sandbox", "model_server", "evals", "training", "benchmarks", "deploy", "requirements", "tests"]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@dataclass(frozen=True, slots=True)
class Example:
    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def examples(page: Path) -> list[Example]:
    text = page.read_text("utf-8")
    return [
        Example(page, text[: match.start()].count("\n") + 1, match["language"], match["text"])
        for match in re.finditer(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


EXAMPLES = [example for page in PAGES for example in examples(page)]


def in_language(language: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("example", [e for e in EXAMPLES if e.language == language], ids=str)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_run(page: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__example__"}
    for example in examples(page):
        if example.language == "python":
            blank = "\n" * example.line  # so that a traceback names the page's line
            exec(compile(blank + example.text, str(page), "exec"), namespace)


@in_language("console")
def test_console_examples_print_what_the_page_says(example: Example) -> None:
    for command, expected in sessions(example.text):
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=ROOT,
            env={"PATH": path, "HOME": str(Path.home()), "COLUMNS": "120", "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, f"{example}: {command}\n{result.stdout}"
        pattern = r"[\s\S]*".join(re.escape(part) for part in expected.split("..."))
        assert re.fullmatch(pattern, result.stdout), f"{example}: {command}\n{result.stdout}"


@in_language("sh")
def test_shell_examples_name_what_exists(example: Example) -> None:
    subprocess.run(["bash", "-n", "-c", example.text], check=True)
    for words in commands(example.text):
        match words:
            case ["make", *targets]:
                assert {target for target in targets if "=" not in target} <= make_targets(), f"{example}: {words}"
            case ["mimo", *arguments]:
                assert_command_exists(arguments, example)
            case ["python", "-m", module, *_]:
                assert (ROOT / module.replace(".", "/")).exists() or (
                    ROOT / f"{module.replace('.', '/')}.py"
                ).exists(), f"{example}: {words}"
            case ["curl", *arguments]:
                assert_body_is_accepted(arguments)


@in_language("json")
def test_json_examples_parse(example: Example) -> None:
    json.loads(example.text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_on_a_page_exist(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_on_a_page_exist(page: Path) -> None:
    for name in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)`", page.read_text("utf-8")):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_the_map_of_the_house_names_what_exists() -> None:
    house = next(example for example in examples(ROOT / "docs" / "architecture.md") if "agent/" in example.text)
    folder = ""
    for line in house.text.splitlines():
        names = re.split(r"\s{2,}", line.strip())[0].split()
        if not line.startswith(" "):
            folder = names[0]
            names = [""]
        for name in names:
            assert (ROOT / folder / name).exists(), f"the map names {folder}{name}"


def sessions(text: str) -> list[tuple[str, str]]:
    """``$ command`` lines with the output each is followed by."""
    parts = re.split(r"^\$ (.*)\n", text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def commands(text: str) -> list[list[str]]:
    """The words of each simple command, without comments and variable assignments before it."""
    found: list[list[str]] = []
    pending = ""
    for line in text.replace("\\\n", " ").splitlines(keepends=True):
        pending += line
        lexer = shlex.shlex(pending, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:
            continue  # a quoted text goes on
        pending = ""
        for separator, part in itertools.groupby(words, key=lambda word: set(word) <= set("|&;()<>")):
            command = list(itertools.dropwhile(re.compile(r"\w+=").match, part))
            if command and not separator:
                found.append([command[0].removeprefix(".venv/bin/"), *command[1:]])
    return found


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def assert_command_exists(arguments: list[str], example: Example) -> None:
    command: Any = typer.main.get_command(app)
    while hasattr(command, "get_command"):  # a group: the next word names one of its commands
        if command.invoke_without_command and (not arguments or arguments[0].startswith("-")):
            break
        assert arguments, f"{example}: mimo {command.name} needs a command"
        found = command.get_command(None, arguments[0])
        assert found is not None, f"{example}: mimo {command.name} has no {arguments[0]}"
        command, arguments = found, arguments[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in arguments if word.startswith("-") and word not in known]
    assert not unknown, f"{example}: mimo {command.name} has no {unknown}"


def body_of(path: str) -> type[BaseModel]:
    """What is posted there."""
    bodies: dict[str, type[BaseModel]] = {
        "tasks": TaskRequest,
        "messages": MessageText,
        "webhooks": NewWebhook,
        "schedules": NewSchedule,
        "evals": NewEval,
        "completions": ChatRequest,
        "skills": NewSkill,
        "mcp_servers": NewMcpServer,
    }
    return bodies[path.rpartition("/")[2]]


def assert_body_is_accepted(arguments: list[str]) -> None:
    for flag, value in itertools.pairwise(arguments):
        if flag in ("-d", "--data"):
            if any(argument.endswith("/generate") for argument in arguments):
                parse_native(json.loads(value))
            else:
                path = next(urlsplit(argument).path for argument in arguments if argument.startswith("http"))
                body_of(path).model_validate_json(value)
