"""What the configuration files say: the system's, the user's, and that of a folder the user trusts.

Later ones win: defaults, system, user, project, environment, options of the command line.
"""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.cli.failure import ExitCode, Failure
from agent.integrations.mcp_server import USERS_ONLY, McpServer, ServerName
from agent.tools.hook import Hook

SYSTEM_FILE = Path("/etc/mimo/config.toml")
PROJECT_FILE = Path(".mimo", "config.toml")


class Settings(BaseModel):
    """Everything that can stand in a ``config.toml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_url: str | None = Field(None, description="OpenAI-compatible endpoint up to /v1; none: the embedded model.")
    model: str | None = Field(None, description="Served name, or checkpoint of the embedded model.")
    profile: Literal["native", "assistant"] | None = Field(
        None, description="Tools of the agent; none: native for the embedded model, else assistant."
    )
    mode: Literal["plan", "ask", "accept edits", "auto"] = Field("ask", description="Of new conversations.")
    sandbox: Literal["local", "docker"] = Field("local", description="What runs commands.")
    temperature: float | None = Field(None, ge=0, le=2, description="How the model is asked.")
    thinking: bool | None = Field(None, description="Reason before acting.")
    max_steps: int = Field(200, gt=0, le=1000, description="Most model calls of one turn.")
    mcp_servers: dict[ServerName, McpServer] = Field({}, description="Programs whose tools the agent may call.")
    hooks: tuple[Hook, ...] = Field((), description="Commands of yours around the agent's calls.")


_USERS_ONLY = ("model_url", "sandbox", "mode", "machine", *USERS_ONLY)
"""What a folder's file must not decide: where the user's words go, what holds commands back, what is handed out."""

_VARIABLES = {"model_url": "MIMO_MODEL_URL", "model": "MIMO_MODEL_NAME"}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from."""

    name: str
    """``default``, the path of a file, or the name of a variable."""


@dataclass(frozen=True, slots=True)
class Loaded:
    settings: Settings
    origins: Mapping[str, Origin]


def load(environment: Mapping[str, str], root: Path | None = None) -> Loaded:
    """All files that there are, in their order.

    Args:
        root: folder whose own file counts; only one the user trusts.

    Raises:
        Failure: a file cannot be read; says line and column.
    """
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, Origin("default"))
    for path, forbidden in _files(environment, root):
        for key, value in _read(path, forbidden).items():
            values[key], origins[key] = _added(values.get(key), value), Origin(str(path))
    for key, variable in _VARIABLES.items():
        if environment.get(variable):
            values[key], origins[key] = environment[variable], Origin(variable)
    return Loaded(Settings.model_validate(values), origins)


def _added(before: Any, value: Any) -> Any:
    """Tables and lists of several files add up; of a table in both, the earlier file's stays: a folder must not put
    its own program in the place of one that the user named. Of all else the later file's counts."""
    match before, value:
        case dict(), dict():
            return {**value, **before}
        case list(), list():
            return [*before, *value]
        case _:
            return value


def listing(loaded: Loaded, *, origin: bool, as_json: bool) -> str:
    """Every setting, one a line; or all as JSON."""
    values = loaded.settings.model_dump(mode="json")
    if as_json:
        whole = {key: {"value": value, "origin": loaded.origins[key].name} for key, value in values.items()}
        return json.dumps(whole if origin else values, indent=2)
    lines = []
    for key, value in values.items():
        line = f"{key} = {json.dumps(value)}"
        lines.append(f"{line:<44}  {loaded.origins[key].name}" if origin else line)
    return "\n".join(lines)


def user_file(environment: Mapping[str, str]) -> Path:
    """``config.toml`` in ``MIMO_HOME``, else in the user's configuration directory."""
    given = environment.get("MIMO_HOME")
    folder = Path(given).expanduser().absolute() if given else platformdirs.user_config_path("mimo")
    return folder / "config.toml"


def _files(environment: Mapping[str, str], root: Path | None) -> list[tuple[Path, Sequence[str]]]:
    files: list[tuple[Path, Sequence[str]]] = [(SYSTEM_FILE, ()), (user_file(environment), ())]
    if root is not None:
        files.append((root / PROJECT_FILE, _USERS_ONLY))
    return [(path, forbidden) for path, forbidden in files if path.is_file()]


def _read(path: Path, forbidden: Sequence[str]) -> dict[str, Any]:
    try:
        return check(path, path.read_text("utf-8"), forbidden)
    except UnicodeDecodeError as error:
        raise _broken(path, f"not UTF-8 text (at byte {error.start})") from error


def check(path: Path, text: str, forbidden: Sequence[str] = ()) -> dict[str, Any]:
    """What a file says that holds ``text``.

    Args:
        forbidden: keys that it must not have.

    Raises:
        Failure: it is no TOML, or not what settings may be; says line and column.
    """
    try:
        values = tomllib.loads(text)
        Settings.model_validate(values)
    except tomllib.TOMLDecodeError as error:
        raise _broken(path, str(error)) from error
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        key = [part for part in first["loc"] if isinstance(part, str)][-1]
        message = "there is no such setting" if first["type"] == "extra_forbidden" else first["msg"]
        raise _broken(path, f"{key}: {message} ({_place(text, key)})") from error
    told = [*values, *(key for server in values.get("mcp_servers", {}).values() for key in server)]
    if forbidden:
        told += [value for hook in values.get("hooks", ()) for value in hook.values() if value == "machine"]
    for key in told:
        if key in forbidden:
            raise _broken(path, f"{key}: a folder cannot decide this ({_place(text, key)}); set it in your own file")
    return values


def _place(text: str, key: str) -> str:
    for number, line in enumerate(text.splitlines(), start=1):
        if found := re.match(rf"(?:\s*|.*=\s*)[\"'\[]*{re.escape(key)}\b", line):
            return f"at line {number}, column {found.end() - len(key) + 1}"
    return "somewhere in it"


def _broken(path: Path, what: str) -> Failure:
    return Failure(ExitCode.USAGE, f"{path}: {what}", "mend or move that file; mimo config show lists what it may hold")


class Trust:
    """The folders whose own files the user lets speak: their configuration and their AGENTS.md."""

    def __init__(self, home: Path) -> None:
        self._path = home / "trusted.json"

    def decided(self, root: Path) -> bool | None:
        """None where the user was not asked yet."""
        return self._read().get(str(root))

    def decide(self, root: Path, trusted: bool) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps({**self._read(), str(root): trusted}, indent=1), "utf-8")
        new.replace(self._path)

    def _read(self) -> dict[str, bool]:
        try:
            known = json.loads(self._path.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise Failure(ExitCode.USAGE, f"{self._path}: not JSON ({error})", "remove that file") from error
        return {str(path): bool(trusted) for path, trusted in known.items()} if isinstance(known, dict) else {}


INSTRUCTIONS = ("AGENTS.md", "CLAUDE.md")
"""Names of a folder's words to agents; the first that is there counts."""

_MAX_INSTRUCTIONS_CHARS = 30_000


def speaks(root: Path) -> bool:
    """The folder has files that would tell us what to do."""
    return any((root / name).exists() for name in (*INSTRUCTIONS, ".mimo", ".agents"))


def instructions(root: Path) -> str:
    """What the folder tells agents; empty where it does not. It goes to the model, so a link may lead to nothing
    outside of the folder."""
    for name in INSTRUCTIONS:
        path = root / name
        if path.is_file() and path.resolve().is_relative_to(root.resolve()):
            return path.read_text("utf-8", errors="replace")[:_MAX_INSTRUCTIONS_CHARS].strip()
    return ""
