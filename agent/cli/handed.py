"""What ``mimo push`` leaves here for ``mimo pull``: the files as they were handed over, and who spoke about them."""

import secrets
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from agent.patch import TaskRepository


class Handed(BaseModel):
    """A task of a service that began in a checkout here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task_id: str
    server: str
    root: Path
    """The checkout."""
    base: str
    """Tree of the commit that the service started from."""
    tree: str
    """Tree of the checkout as it was handed over."""
    conversation: str | None
    """Id of the conversation whose words the task read."""
    text: str
    """What the task was asked."""


class HandedOver:
    """All of them, a folder each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def new(self) -> Path:
        """A folder for one that has no task yet."""
        folder = self._folder / f"new-{secrets.token_hex(8)}"
        folder.mkdir(mode=0o700, parents=True)
        return folder

    def keep(self, folder: Path, handed: Handed) -> None:
        (folder / "handed.json").write_text(handed.model_dump_json(), "utf-8")
        folder.rename(self._folder / handed.task_id)

    def find(self, task_id: str) -> Handed | None:
        """None where it was handed over elsewhere, or never."""
        file = self._folder / task_id / "handed.json"
        if "/" in task_id or not file.exists():
            return None
        return Handed.model_validate_json(file.read_bytes())

    def newest(self, conversation: str | None) -> Handed | None:
        """The last one; of a conversation's, where it is named."""
        files = sorted(self._folder.glob("*/handed.json"), key=lambda file: file.stat().st_mtime, reverse=True)
        found = (Handed.model_validate_json(file.read_bytes()) for file in files)
        return next((handed for handed in found if conversation in (None, handed.conversation)), None)

    def files(self, handed: Handed) -> TaskRepository:
        return TaskRepository(git_dir_of(self._folder / handed.task_id))


def git_dir_of(folder: Path) -> Path:
    return folder / "files.git"
