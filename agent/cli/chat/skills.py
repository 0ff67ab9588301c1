"""Skills in folders: ``NAME/SKILL.md`` with a head of YAML, and whatever files belong to it."""

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from agent.cli.chat.host import WORKSPACE
from agent.cli.failure import ExitCode, Failure
from agent.tools.skill import OUTSIDE, Skill, SkillDescription, SkillName

PROJECT_SKILLS = Path(".agents", "skills")

_MAX_FILES = 100
_MAX_FILE_BYTES = 1024 * 1024


class _Head(BaseModel):
    # Other programs add keys of their own.
    model_config = ConfigDict(extra="ignore")

    name: SkillName
    description: SkillDescription


def find_skills(user: Path, root: Path | None, *, sandboxed: bool) -> tuple[Skill, ...]:
    """All skills by their names; a folder's take the place of the user's.

    Args:
        user: folder of the user's skills.
        root: project whose skills count too; only one the user trusts.

    Raises:
        Failure: a SKILL.md cannot be read.
    """
    found = {skill.name: skill for skill in _users(user, sandboxed=sandboxed)}
    if root is not None:
        for path in _paths(root / PROJECT_SKILLS):
            place = path.parent.relative_to(root)
            skill = _skill(path, f"{WORKSPACE}/{place}" if sandboxed else str(path.parent))
            found[skill.name] = skill
    return tuple(found[name] for name in sorted(found))


def skill_in(file: Path) -> Skill:
    """What a SKILL.md says, without the files beside it.

    Raises:
        Failure: it cannot be read.
    """
    return _skill(file, str(file.parent))


def _users(folder: Path, *, sandboxed: bool) -> Iterator[Skill]:
    """They are outside the project, so that a sandbox has to be given their files."""
    for path in _paths(folder):
        if sandboxed:
            yield _skill(path, f"{OUTSIDE}/{path.parent.name}", dict(_files(path.parent)))
        else:
            yield _skill(path, str(path.parent))


def _paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/SKILL.md"))


def _skill(path: Path, place: str, files: dict[str, bytes] | None = None) -> Skill:
    import yaml  # Slow to import, and needed only where there are skills.

    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise _broken(path, error.strerror or str(error)) from error
    parts = re.fullmatch(r"---\r?\n(.*?)\r?\n---\r?\n?(.*)", text, re.DOTALL)
    if parts is None:
        raise _broken(path, "it does not begin with a head between two lines of ---")
    try:
        head = _Head.model_validate(yaml.safe_load(parts[1]))
    except yaml.YAMLError as error:
        raise _broken(path, f"its head is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise _broken(path, f"{'.'.join(map(str, first['loc'])) or 'head'}: {first['msg']}") from error
    return Skill(head.name, " ".join(head.description.split()), parts[2].strip(), place, files or {})


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths[:_MAX_FILES]:
        if path.stat().st_size <= _MAX_FILE_BYTES:
            yield str(path.relative_to(folder)), path.read_bytes()


def _broken(path: Path, what: str) -> Failure:
    return Failure(ExitCode.USAGE, f"{path}: {what}", "mend or move that file")
