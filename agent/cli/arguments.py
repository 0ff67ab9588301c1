"""Checks what the command line says and turns it into the agent's types."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from agent.cli.failure import ExitCode, Failure
from agent.cli.output import Delivery
from agent.config import ModelSettings, model_settings
from agent.types import Limits, ModelOptions, Status
from sandbox.backends import NAMES
from sandbox.config import FILE_VARIABLE, SandboxSettings, sandbox_settings
from sandbox.errors import SandboxUnavailable

if TYPE_CHECKING:
    from agent.api.schemas import Image, MessageText

EMBEDDED_MODEL = "mimo-v2-nano"
"""Checkpoint of the embedded model server; it ships with this project."""

_T = TypeVar("_T", bound=BaseModel)


def read_problem(problem: str | None) -> str:
    """The problem statement; ``-``, or nothing where something is piped in, reads standard input.

    Raises:
        Failure: there is none, or it is not text.
    """
    if problem is None and sys.stdin.isatty():
        raise Failure(ExitCode.USAGE, "no problem is given", 'say what is wrong or wanted: mimo run "..."')
    try:
        text = sys.stdin.read() if problem in (None, "-") else str(problem)
        text.encode("utf-8")
    except UnicodeError as error:
        raise Failure(ExitCode.USAGE, "the problem is not UTF-8 text", "convert it, then try again") from error
    if not text.strip():
        raise Failure(ExitCode.USAGE, "the problem is empty", 'say what is wrong or wanted: mimo run "..."')
    return text


class Message(BaseModel):
    """A line of ``--input stream-json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["message"] = "message"
    text: Annotated[str, StringConstraints(min_length=1, max_length=100_000)]
    delivery: Literal["steer", "queue", "interrupt"] = "steer"
    """Before the agent's next answer; after it finished; or at once."""


def read_message() -> str:
    """The problem, from the first line of standard input."""
    # Unbuffered: what follows the line is for who reads on.
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as stdin:
        return message(stdin.readline().decode("utf-8", "replace")).text


def message(line: str) -> Message:
    """
    Raises:
        Failure: the line is no message.
    """
    try:
        return Message.model_validate_json(line)
    except ValidationError as error:
        what = error.errors(include_input=False)[0]["msg"]
        example = 'write lines like {"type": "message", "text": "..."}'
        raise Failure(ExitCode.USAGE, f"standard input: not a message: {what}", example) from error


def limits(
    *, max_steps: int | None, max_tokens: int | None, timeout_s: float | None, max_cost: float | None = None
) -> Limits:
    given = {"max_steps": max_steps, "max_tokens": max_tokens, "wall_clock_s": timeout_s, "max_cost": max_cost}
    return _built(Limits, given)


def sampling(*, temperature: float | None, seed: int | None, thinking: bool | None, model: str | None) -> ModelOptions:
    given = {"temperature": temperature, "seed": seed, "thinking": thinking, "name": model}
    return _built(ModelOptions, given, _MODEL)


def said(text: str, delivery: Delivery, images: "tuple[Image, ...]" = ()) -> "MessageText":
    from agent.api.schemas import MessageText  # Slow to import, and a conversation needs none.

    return _built(MessageText, {"text": text, "delivery": delivery.value, "images": images})


def endpoint(environment: Mapping[str, str], *, url: str | None, name: str | None) -> tuple[ModelSettings, str | None]:
    """The endpoint to ask; or, where nobody names one, the checkpoint that an embedded server shall serve."""
    url = url or environment.get("MIMO_MODEL_URL") or None
    try:
        settings = model_settings(environment)
    except ValidationError as error:
        raise invalid(error, _MODEL) from error
    given = {"url": url.rstrip("/") if url else None, "name": name}
    given = {**settings.model_dump(), **{name: value for name, value in given.items() if value is not None}}
    settings = _built(ModelSettings, given, _MODEL)
    return settings, None if url else name or EMBEDDED_MODEL


def backend(name: str) -> str:
    """A sandbox backend that exists; whether it works here shows when it is opened."""
    if name not in NAMES:
        raise Failure(ExitCode.USAGE, f"--sandbox: there is no {name!r}", f"use one of {', '.join(NAMES)}")
    return name


def sandbox(environment: Mapping[str, str]) -> SandboxSettings:
    """How sandboxes are made, as the file says that the environment names."""
    try:
        return sandbox_settings(environment)
    except SandboxUnavailable as error:
        raise Failure(ExitCode.USAGE, str(error), f"mend that file, or unset {FILE_VARIABLE}") from error


def labels(given: Sequence[str]) -> dict[str, str]:
    """``name=value`` pairs."""
    pairs = dict(label.partition("=")[::2] for label in given)
    if any("=" not in label or label.startswith("=") for label in given):
        raise Failure(ExitCode.USAGE, "a label is not of the form NAME=VALUE", "write, for example, --label team=web")
    return pairs


def status(name: str | None) -> Status | None:
    if name is None:
        return None
    try:
        return Status(name)
    except ValueError as error:
        known = ", ".join(Status)
        raise Failure(ExitCode.USAGE, f"there is no status {name!r}", f"use one of {known}") from error


def mode(name: str | None) -> str | None:
    """``edits`` is short for ``accept edits``."""
    known = {"plan": "plan", "ask": "ask", "edits": "accept edits", "accept edits": "accept edits", "auto": "auto"}
    if name is not None and name not in known:
        raise Failure(ExitCode.USAGE, f"--mode: there is no {name!r}", "use one of plan, ask, edits, auto")
    return None if name is None else known[name]


def invalid(error: ValidationError, named: Mapping[str, str] = MappingProxyType({})) -> Failure:
    """A rejected value of the command line, by the name it has there.

    Args:
        named: what fields are called there, beside those that every command calls the same.
    """
    parts = [(".".join(map(str, part["loc"])), part["msg"]) for part in error.errors(include_input=False)]
    names = {**_OPTIONS, **named}
    found = "; ".join(f"{names.get(name, name)}: {message}" for name, message in parts)
    return Failure(ExitCode.USAGE, found, "see --help for what each option takes")


_OPTIONS = {
    "problem_statement": "the problem",
    "repository": "--repo",
    "base_commit": "--commit",
    "max_steps": "--max-steps",
    "max_tokens": "--max-tokens",
    "max_cost": "--max-cost",
    "wall_clock_s": "--timeout",
    "temperature": "--temperature",
    "seed": "--seed",
    "attempts": "--attempts",
    "command": "--check",
}

_MODEL = {"url": "--model-url", "name": "--model"}


def directory(path: Path) -> Path:
    return path.expanduser().absolute()


def repository(given: Path) -> Path | str:
    """A checkout on this machine; or, where nothing of the name is here, a repository that the service knows."""
    return str(given) if len(given.parts) == 1 and not given.exists() else directory(given)


def text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(ExitCode.USAGE, f"{path} cannot be read: {error}", "give a file with text") from error


def _built(kind: type[_T], values: Mapping[str, Any], named: Mapping[str, str] = MappingProxyType({})) -> _T:
    """A record from the values that were given; the others keep their defaults."""
    try:
        return kind.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        raise invalid(error, named) from error
