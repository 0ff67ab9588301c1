"""Runs git so that nothing in a repository can make it run something else.

Repositories are written by others, and git obeys their configuration: hooks, filters, file system monitors, remote
helpers. So the user's and the system's configuration are not read, what could start a program is set on the command's
own level (which wins over the repository's), and no transport is allowed, except to ``agent.integrations.remote``.
"""

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from agent.errors import GitError

_CONFIGURATION = {
    "safe.directory": "*",  # the owner of a repository may be another user than the service
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.attributesFile": os.devnull,
    "core.excludesFile": os.devnull,
    "core.autocrlf": "false",
    "core.quotePath": "true",
    # Names that would be special on other systems are files like any other here; a work tree holding one must not
    # keep us from looking at it.
    "core.protectHFS": "false",
    "core.protectNTFS": "false",
    "submodule.recurse": "false",
    "gc.auto": "0",
}

_ENVIRONMENT = {
    "LC_ALL": "C",
    "HOME": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": "none",  # also keeps a partial clone from fetching, which runs what its configuration names
    "GIT_CONFIG_COUNT": str(len(_CONFIGURATION)),
    **{f"GIT_CONFIG_KEY_{i}": key for i, key in enumerate(_CONFIGURATION)},
    **{f"GIT_CONFIG_VALUE_{i}": value for i, value in enumerate(_CONFIGURATION.values())},
}


async def git(
    *arguments: str,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    configuration: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    max_file_bytes: int | None = None,
) -> bytes:
    """Standard output of ``git ARGUMENTS``.

    Args:
        environment: in addition, such as ``GIT_DIR``.
        configuration: in addition, over everything else; other users of the machine can read it.
        max_file_bytes: git is ended where it writes a larger file; None: never.

    Raises:
        GitError: git is not installed, or ended with another code than 0; holds the last line it wrote.
    """
    options = [part for key, value in (configuration or {}).items() for part in ("-c", f"{key}={value}")]
    try:
        process = await asyncio.create_subprocess_exec(
            *_limited(max_file_bytes),
            "git",
            *options,
            *arguments,
            cwd=cwd,
            env={"PATH": os.environ.get("PATH", os.defpath), **_ENVIRONMENT, **(environment or {})},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # so that what git starts ends with it
        )
    except FileNotFoundError as error:
        raise GitError("git is not installed, or a directory of ours is gone") from error
    try:
        output, errors = await process.communicate(stdin)
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    if process.returncode != 0:
        lines = errors.decode("utf-8", "replace").strip().splitlines()
        raise GitError(f"git {arguments[0]}: {lines[-1] if lines else f'exit code {process.returncode}'}")
    return output


def _limited(max_file_bytes: int | None) -> tuple[str, ...]:
    """What a command begins with whose files are bounded; the shell counts in blocks of 512 bytes (POSIX, ulimit)."""
    if max_file_bytes is None:
        return ()
    return ("sh", "-c", 'ulimit -f "$0" && exec "$@"', str(max_file_bytes // 512))
