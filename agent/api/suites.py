"""Suites of tasks that the operator keeps for evaluations: a folder with one file ``NAME.json`` each.

``mimo eval prepare`` writes them. Their tasks may name any path of the service's machine: the operator chose them.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import anyio
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.errors import SettingsError
from agent.types import TaskRequest

FOLDER_VARIABLE = "MIMO_EVAL_SUITES"
"""Names the folder."""

MAX_TASKS = 500
"""Of an evaluation: they are submitted in one transaction."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def suites_folder(environment: Mapping[str, str]) -> Path | None:
    """The folder that the environment names; None where it names none."""
    named = environment.get(FOLDER_VARIABLE)
    return Path(named) if named else None


class SuiteFile(BaseModel):
    """What such a file holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: tuple[TaskRequest, ...] = Field(min_length=1, max_length=MAX_TASKS)


class Suites:
    """What is in the folder now."""

    def __init__(self, folder: Path | None = None) -> None:
        """
        Args:
            folder: None where the operator keeps no suites.
        """
        self._folder = folder

    async def names(self) -> tuple[str, ...]:
        if self._folder is None:
            return ()
        found = [path.stem async for path in anyio.Path(self._folder).glob("*.json")]
        return tuple(sorted(name for name in found if _NAME.fullmatch(name)))

    async def read(self, name: str) -> tuple[TaskRequest, ...] | None:
        """The tasks of a suite; None where there is none of this name.

        Raises:
            SettingsError: its file cannot be used; the message says why.
        """
        if self._folder is None or not _NAME.fullmatch(name):
            return None
        path = anyio.Path(self._folder / f"{name}.json")
        try:
            text = await path.read_text("utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeError) as error:
            raise SettingsError(f"the suite {name} cannot be read: {error}") from error
        try:
            return SuiteFile.model_validate_json(text).tasks
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise SettingsError(f"the suite {name}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
