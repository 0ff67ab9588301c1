"""History mining: whether a run looked for the answer to its task in places where the answer already stands.

The fix of a benchmark's task exists: in later commits, at the repository's host, in a package index. This names the
calls that look there, by what bash would run of them. It is a remark for people, beside a score: whether anything was
found, or was there to be found, it does not say, and code in a script that was written before is not seen.
"""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from agent.forges import FORGES, INDEXES
from agent.permissions.command import SimpleCommand, Unparsable, simple_commands
from agent.permissions.kinds import WRAPPERS
from agent.trajectory import Step
from agent.types import ToolCall

Place = Literal["history", "reflog", "objects", "remote", "forge", "index"]
"""Commits that are not behind the current one; where branches were before; git's own files; another repository; the web
of git hosts; a package index's copy of the repository itself."""

_SHOWN_CHARS = 300


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Remark(_Record):
    """One call that looked there."""

    step: int
    place: Place
    call: str = Field(description="The command, or the path; its first 300 characters.")


class Mining(_Record):
    """What a run's calls say."""

    remarks: tuple[Remark, ...] = ()
    num_unread: int = Field(0, description="Commands that are no shell that could be taken apart.")


def mining(steps: Sequence[Step], repository: str) -> Mining:
    """
    Args:
        repository: the task's; a package of its name is its own.
    """
    name = _plain_name(repository.rstrip("/").rpartition("/")[2].removesuffix(".git"))
    remarks: list[Remark] = []
    num_unread = 0
    for step in steps:
        for intent in step.intents:
            command, path = _texts(intent.call)
            places, whole = places_of(command, {name} - {""}) if command else (_of_path(path), True)
            num_unread += not whole
            shown = (command or path)[:_SHOWN_CHARS]
            remarks += [Remark(step=step.number, place=place, call=shown) for place in places]
    return Mining(remarks=tuple(remarks), num_unread=num_unread)


def places_of(line: str, names: Collection[str] = ()) -> tuple[tuple[Place, ...], bool]:
    """Where a shell line looks for the answer, each place once; and whether all of the line was understood.

    Args:
        names: of the repository's own packages, in small letters.

    >>> places_of("cd src && git log --all --oneline | head; git reflog")
    (('history', 'reflog'), True)
    """
    try:
        parts, whole = list(simple_commands(line)), True
    except Unparsable:
        parts, whole = [], False
        for single in line.splitlines():
            with suppress(Unparsable):
                parts += simple_commands(single)
    found = [place for part in parts for place in _places(part, line, names)]
    return tuple(dict.fromkeys(found)), whole


def _texts(call: ToolCall) -> tuple[str, str]:
    """The shell line of a call, and the path that it names; empty where it has none."""
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        return "", ""
    given = arguments if isinstance(arguments, dict) else {}
    command, path = given.get("command"), given.get("path")
    return command if isinstance(command, str) else "", path if isinstance(path, str) else ""


_Words = Sequence[str | None]


def _places(part: SimpleCommand, line: str, names: Collection[str]) -> Iterator[Place]:
    yield from _of_program(part.words, part, line, names)
    if part.words and part.words[0] and _program(part.words[0]) in WRAPPERS | {"find"}:
        for at in range(1, len(part.words)):  # Where the wrapped program begins is not known for sure.
            yield from _of_program(part.words[at:], part, line, names)


def _of_program(words: _Words, part: SimpleCommand, line: str, names: Collection[str]) -> Iterator[Place]:
    if not words or words[0] is None:
        return
    program, arguments = _program(words[0]), words[1:]
    if program in _TELLING:
        return
    # What the shell has yet to fill in, such as a glob, is looked at as it is written.
    written = [word for word in arguments if word is not None]
    if None in arguments:
        written += part.text.split()[1:]
    patterns = 1 if program in _SEARCHING else 0
    for word in [word for word in written if not word.startswith("-")][patterns:]:
        yield from _of_path(word)
    match program:
        case "git":
            if place := _of_git(arguments, part.text):
                yield place
        case "gh" | "glab" | "hub":
            if next(iter(written), "-").lstrip("-") not in _HARMLESS_OF_FORGE:
                yield "forge"
        case _ if program in _FETCHING:
            yield from _of_addresses(written)
        case _ if program in _INTERPRETERS:
            if written[:1] == ["-m"]:
                yield from _of_program(words[2:], part, line, names)
            script = line if "<<" in line else " ".join(written)
            if _CALLS_OUT.search(script):
                yield from _of_addresses([script])
        case _ if program in _INSTALLERS:
            yield from _of_installer(written, _INSTALLERS[program], names)


def _program(word: str) -> str:
    name = word.rpartition("/")[2]
    return re.sub(r"^(python|pip|ruby|node|perl|php)[\d.]+$", r"\1", name)


def _of_path(path: str) -> tuple[Place, ...]:
    found = _GIT_FILE.search(path)
    if found is None:
        return ()
    return ("reflog",) if found[1] == "logs" else ("objects",)


_GIT_FILE = re.compile(
    r"(?:^|/)\.git/(objects|packed-refs|logs|refs/(?:remotes|tags)|ORIG_HEAD|FETCH_HEAD)(?:/[^\s;]*)?$"
)


def _of_git(arguments: _Words, text: str) -> Place | None:
    words = list(arguments)
    while words and (words[0] is None or words[0].startswith("-")):
        words = words[2:] if words[0] in _GIT_WITH_VALUE else words[1:]
    if not words or words[0] is None:
        return None
    command, given = words[0], [word for word in words[1:] if word is not None]
    revisions = given[: given.index("--")] if "--" in given else given
    options = {word.partition("=")[0] for word in revisions if word.startswith("-")}
    named = [word for word in revisions if not word.startswith("-")][command == "grep" :]  # Its first is a pattern.
    named += text.split() if None in words else []  # Unquoted, ``@{1}`` is the shell's to fill in.
    if command == "reflog" or (command in _GIT_LOGS and options & {"-g", "--walk-reflogs", "--reflog"}):
        return "reflog"
    if command in _GIT_REMOTE or _names_remote(command, given) or "--remote" in options:
        return "remote"
    if command in _GIT_OBJECTS or "--batch-all-objects" in options:
        return "objects"
    if command in _GIT_LOGS and options & {"--all", "--branches", "--remotes", "--tags", "--glob"}:
        return "history"
    if command in _GIT_READING and any(_REFLOG.search(word) for word in named):
        return "reflog"
    later = command in _GIT_READING and any(_LATER.search(word) for word in named)
    return "history" if later or command in ("cherry-pick", "cherry") or "--contains" in options else None


def _names_remote(command: str, given: Sequence[str]) -> bool:
    if command == "clone":
        return any(_ADDRESS.search(word) for word in given)
    return command == "remote" and given[:1] in (["add"], ["update"], ["set-url"])


_GIT_WITH_VALUE = frozenset({"-C", "-c", "--git-dir", "--work-tree", "--namespace"})
_GIT_LOGS = frozenset({"log", "rev-list", "shortlog", "show", "whatchanged", "grep", "show-branch"})
_GIT_READING = _GIT_LOGS | {
    "diff",
    "checkout",
    "restore",
    "switch",
    "cat-file",
    "ls-tree",
    "archive",
    "worktree",
    "merge",
    "reset",
    "rev-parse",
}
_GIT_REMOTE = frozenset({"fetch", "pull", "ls-remote", "fetch-pack", "http-fetch"})
_GIT_OBJECTS = frozenset({"fsck", "lost-found", "verify-pack", "unpack-objects", "show-index", "index-pack"})
_ADDRESS = re.compile(r"://|^[\w.-]+@[\w.-]+:")
_REFLOG = re.compile(r"(?<!stash)@\{(?!u\}|upstream\}|push\})")
_LATER = re.compile(r"^HEAD\.\.\.?\S|(?:^|\.\.|\^)(?:origin|upstream)/|@\{(?:u|upstream|push)\}|FETCH_HEAD|ORIG_HEAD")


def _of_addresses(texts: Sequence[str]) -> Iterator[Place]:
    for text in texts:
        if _FORGE.search(text):
            yield "forge"
        if _INDEX.search(text):
            yield "index"


def _any_of(hosts: Sequence[str]) -> str:
    return rf"\b(?:{'|'.join(map(re.escape, hosts))})"


_FORGE = re.compile(_any_of(FORGES) + r"(?!/[^/\s]+/[^/\s]+/releases/download/)")
_INDEX = re.compile(_any_of(INDEXES))
_CALLS_OUT = re.compile(
    r"urlopen|urlretrieve|requests\.|httpx\.|http\.client|aiohttp|\bfetch\(|axios|https?\.get\(|Net::HTTP|URI\.open|LWP"
)


def _of_installer(written: Sequence[str], verbs: Collection[str], names: Collection[str]) -> Iterator[Place]:
    if any("git+" in word or _FORGE.search(word) for word in written):
        yield "remote"
    words = [word for word in written if not word.startswith(("-", ".", "/"))]
    if words[:1] == ["pip"]:  # of uv
        words = words[1:]
    if words[:1] and words[0] in verbs and any(_plain_name(word) in names for word in words[1:]):
        yield "index"


def _plain_name(text: str) -> str:
    """A package's name without scope, extras and version.

    >>> _plain_name("@babel/Core@7.1"), _plain_name("My_Package[extra]>=2"), _plain_name("golang.org/x/net@latest")
    ('core', 'my-package', 'net')
    """
    named = re.match(r"@?[\w./-]+", text)
    return re.sub(r"[-_.]+", "-", named[0].rpartition("/")[2].lower()) if named else ""


_TELLING = frozenset({"echo", "printf", "true", ":"})
_SEARCHING = frozenset({"grep", "egrep", "fgrep", "rg", "ag"})
_HARMLESS_OF_FORGE = frozenset({"", "auth", "config", "help", "version", "completion", "alias"})
_FETCHING = frozenset({"curl", "wget", "http", "https", "aria2c", "lynx", "w3m", "links", "xh"})
_INTERPRETERS = frozenset({"python", "node", "ruby", "perl", "php", "deno", "bun"})
_OF_NPM = frozenset({"install", "i", "add", "pack", "view", "info", "show", "v"})
_INSTALLERS = {
    "pip": frozenset({"install", "download", "wheel", "index"}),
    "uv": frozenset({"install", "download", "add", "run"}),
    "pipx": frozenset({"install", "run", "inject"}),
    "poetry": frozenset({"add"}),
    "pdm": frozenset({"add"}),
    "conda": frozenset({"install", "search"}),
    "npm": _OF_NPM,
    "pnpm": _OF_NPM,
    "yarn": _OF_NPM,
    "cargo": frozenset({"add", "install", "info", "download"}),
    "gem": frozenset({"install", "fetch", "unpack"}),
    "go": frozenset({"get", "install", "mod"}),
    "apt": frozenset({"source", "install", "download"}),
    "apt-get": frozenset({"source", "install", "download"}),
}
"""What of them fetches a package, or what is known of it."""
