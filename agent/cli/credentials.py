"""What ``mimo login`` keeps: one credential for each service, in the system's keyring, or in a file where there is
none."""

import os
import tempfile
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from agent.cli.failure import ExitCode, Failure

_KEYRING_NAME = "mimo"
_FILE = "logins.json"

Place = Literal["keyring", "file"]


class Refresh(BaseModel):
    """How a token is replaced when it has expired."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: str
    client_id: str
    token: str


class Credential(BaseModel):
    """What is shown to a service."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    secret: str
    """An API key or a token."""
    expires_at: float | None = None
    """Seconds since 1970; None: not known."""
    refresh: Refresh | None = None


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    place: Place
    credential: Credential | None = None
    """None where it is in the keyring."""


_Entries = TypeAdapter(dict[str, _Entry])


class Credentials:
    """Those of one user. The file says where each is, so that the keyring is asked only for what it has."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / _FILE

    def get(self, server: str) -> Credential | None:
        """
        Raises:
            Failure: the file can be read by others, or is none of ours.
        """
        server = _same(server)
        entry = self._entries().get(server)
        if entry is None or entry.place == "file":
            return None if entry is None else entry.credential
        kept = _from_keyring(server)
        return None if kept is None else Credential.model_validate_json(kept)

    def put(self, server: str, credential: Credential) -> Place:
        """Keep a credential, in place of the one before; returns where it is now."""
        server = _same(server)
        place: Place = "keyring" if _to_keyring(server, credential.model_dump_json()) else "file"
        entry = _Entry(place=place, credential=credential if place == "file" else None)
        self._write(self._entries() | {server: entry})
        return place

    def remove(self, server: str) -> bool:
        """Whether there was one."""
        server = _same(server)
        entries = self._entries()
        entry = entries.pop(server, None)
        if entry is None:
            return False
        if entry.place == "keyring":
            _out_of_keyring(server)
        self._write(entries)
        return True

    def _entries(self) -> dict[str, _Entry]:
        try:
            text = self._file.read_text("utf-8")
        except FileNotFoundError:
            return {}
        if self._file.stat().st_mode & 0o077:
            raise Failure(ExitCode.FAILED, f"{self._file} can be read by others", f"run: chmod 600 {self._file}")
        try:
            return _Entries.validate_json(text)
        except ValidationError as error:
            remedy = "delete it, then run `mimo login` again"
            raise Failure(ExitCode.FAILED, f"{self._file} holds no logins", remedy) from error

    def _write(self, entries: dict[str, _Entry]) -> None:
        """Whole or not at all; a file for one reader from its first moment."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, new = tempfile.mkstemp(dir=self._file.parent, prefix=f".{_FILE}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(_Entries.dump_json(entries, indent=2))
        Path(new).replace(self._file)


def _same(server: str) -> str:
    """One name for one service."""
    return server.rstrip("/")


def _to_keyring(server: str, text: str) -> bool:
    """Whether the keyring has it now. One that is set up to forget everything is no keyring."""
    import keyring
    from keyring.errors import KeyringError

    try:
        keyring.set_password(_KEYRING_NAME, server, text)
        return keyring.get_password(_KEYRING_NAME, server) == text
    except KeyringError:
        return False


def _from_keyring(server: str) -> str | None:
    import keyring
    from keyring.errors import KeyringError

    try:
        return keyring.get_password(_KEYRING_NAME, server)
    except KeyringError as error:
        remedy = "unlock it and try again, or run `mimo login` again"
        raise Failure(ExitCode.FAILED, f"the keyring does not give the login: {error}", remedy) from error


def _out_of_keyring(server: str) -> None:
    import keyring
    from keyring.errors import KeyringError, PasswordDeleteError

    try:
        keyring.delete_password(_KEYRING_NAME, server)
    except PasswordDeleteError:
        return  # Somebody took it out already.
    except KeyringError as error:
        raise Failure(ExitCode.FAILED, f"the keyring does not let go of the login: {error}", "unlock it") from error
