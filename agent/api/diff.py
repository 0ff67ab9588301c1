"""The structure of a patch, as git reads it."""

import asyncio

from agent.api.schemas import FileChange


async def changed_files(patch: str) -> tuple[FileChange, ...]:
    """The files of a unified diff. Git itself parses it: quoted names, renames and binary files are its rules."""
    if not patch:
        return ()
    process = await asyncio.create_subprocess_exec(
        *("git", "apply", "--numstat", "-z", "-"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # Outside any repository: inside one, git leaves out files that are not below the current directory.
        cwd="/",
    )
    output, errors = await process.communicate(patch.encode())
    assert process.returncode == 0, errors
    return tuple(_file(record) for record in output.decode(errors="replace").split("\0") if record)


def _file(record: str) -> FileChange:
    added, removed, path = record.split("\t", 2)
    binary = added == "-"
    return FileChange(
        path=path, added=0 if binary else int(added), removed=0 if binary else int(removed), binary=binary
    )
