"""A Postgres server of the tests' own: a folder, a process, a socket; nothing of the machine's."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

_START_S = 120.0
_ACCOUNT = "postgres"
"""Who runs the server where the tests are root, which Postgres refuses to be."""


class PostgresServer:
    """Runs until :meth:`stop`; may be started again, with what it had."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        self._folder.chmod(0o755)
        self._data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            account = pwd.getpwnam(_ACCOUNT)
            for path in (self._folder, self._data):
                os.chown(path, account.pw_uid, account.pw_gid)
        options = ("--username=mimo", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync")
        subprocess.run(self._command("initdb", "-D", self._data, *options), check=True, capture_output=True)

    def start(self) -> None:
        # fsync is for machines that lose power; a server that is killed keeps what it wrote.
        options = ("-c", "listen_addresses=", "-c", f"unix_socket_directories={self._folder}", "-c", "fsync=off")
        with (self._folder.parent / f"{self._folder.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("postgres", "-D", self._data, *options), stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _START_S
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self, *, at_once: bool = False) -> None:
        """End the server: in order, or as a crash does, in the middle of everything."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if at_once else signal.SIGINT)
            self._process.wait()
            self._process = None

    def url(self, database: str) -> str:
        return f"postgresql://mimo@/{database}?host={self._folder}"

    def new_database(self) -> str:
        """Address of an empty one."""
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def demote(self, url: str) -> None:
        """As when another server takes over: this one ends the connections to a database, and only reads from it."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            name = _name(url)
            connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])

    def promote(self, url: str) -> None:
        """Connections that begin from now on may write again."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {_name(url)} SET default_transaction_read_only = off")

    def _command(self, program: str, *arguments: str | Path) -> list[str]:
        command = [str(self._programs / program), *map(str, arguments)]
        return (
            ["setpriv", f"--reuid={_ACCOUNT}", f"--regid={_ACCOUNT}", "--clear-groups", *command]
            if os.geteuid() == 0
            else command
        )


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A running server; the test is skipped where none is installed."""
    programs = _programs()
    if programs is None:
        pytest.skip("no Postgres server is installed (initdb and postgres; deploy/setup.sh --for-tests)")
    # A socket's path may have about 100 bytes; pytest's folders are longer.
    folder = Path(tempfile.mkdtemp(prefix="mimo-postgres-"))
    server = PostgresServer(programs, folder)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.stop(at_once=True)
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(FileNotFoundError):
            folder.with_suffix(".log").unlink()


def _name(url: str) -> str:
    return urlsplit(url).path.strip("/")


def _programs() -> Path | None:
    """Folder of the newest server's programs; Debian keeps them out of the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None
