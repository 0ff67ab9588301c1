"""The structure of a patch, as git reads it."""

from pathlib import Path

from agent.api.schemas import FileChange
from agent.git import git


async def changed_files(patch: str) -> tuple[FileChange, ...]:
    """The files of a unified diff. Git itself parses it: quoted names and binary files are its rules."""
    if not patch:
        return ()
    # Outside any repository: inside one, git leaves out files that are not below the current directory.
    output = await git("apply", "--numstat", "-z", "-", cwd=Path("/"), stdin=patch.encode())
    return tuple(map(_file, output.decode(errors="replace").split("\0")[:-1]))


def _file(record: str) -> FileChange:
    added, removed, path = record.split("\t", 2)
    if added == "-":
        return FileChange(path=path, added=0, removed=0, binary=True)
    return FileChange(path=path, added=int(added), removed=int(removed))
