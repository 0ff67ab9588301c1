"""What a simple command can do at worst, as far as its words tell.

A program that is not listed is ``OTHER``: it may do anything that its machine lets it do.
"""

import re
from collections.abc import Callable, Sequence
from enum import IntEnum

from agent.permissions.command import SimpleCommand


class Kind(IntEnum):
    """From harmless to harmful."""

    READ = 0
    """Looks, and changes nothing."""
    EDIT = 1
    """Changes files below the current folder, as an edit of the agent does."""
    OTHER = 2
    """Runs something we do not know: tests, a build, a script."""
    NETWORK = 3
    """Talks to other machines."""
    OUTSIDE = 4
    """Has another program, outside the sandbox, do something."""
    DESTRUCTIVE = 5
    """Can lose work that is nowhere else, such as ``rm``, ``git reset`` or ``git checkout``."""


def kind_of(part: SimpleCommand) -> Kind:
    """The worst that one simple command can do.

    >>> from agent.permissions.command import simple_commands
    >>> [kind_of(part).name for part in simple_commands("git status && git checkout .")]
    ['READ', 'DESTRUCTIVE']
    """
    if part.writes_to:
        return max(map(_written, part.writes_to))
    if not part.words:
        return Kind.OTHER
    kind = _kind(part.words)
    # Variables can make any program do something else (PATH, LD_PRELOAD, GIT_PAGER).
    return max(kind, Kind.OTHER) if part.assigns else kind


def _written(target: str | None) -> Kind:
    if target in ("/dev/null", "/dev/stdout", "/dev/stderr") or (target or "").isdecimal():
        return Kind.READ
    return Kind.EDIT if _inside(target) else Kind.OTHER


_Words = Sequence[str | None]


def _kind(words: _Words) -> Kind:
    if words[0] is None:
        return Kind.OTHER
    program, arguments = words[0].rsplit("/", 1)[-1], words[1:]
    if program in _DESTRUCTIVE or program.startswith("mkfs"):
        return Kind.DESTRUCTIVE
    if program in WRAPPERS:
        return _wrapped(program, arguments)
    if words[0] != program and not words[0].startswith(("/bin/", "/usr/bin/")):
        return Kind.OTHER  # a program of the repository that only has a known name
    if program in _SPECIAL:
        return _SPECIAL[program](arguments)
    if program in _NETWORK:
        return Kind.NETWORK
    subcommand = next((word for word in arguments if word is not None and not word.startswith("-")), None)
    if subcommand in _NETWORK_SUBCOMMANDS.get(program, ()):
        return Kind.NETWORK
    if subcommand in _DESTRUCTIVE_SUBCOMMANDS.get(program, ()):
        return Kind.DESTRUCTIVE
    if program in _EDITS:
        return Kind.EDIT if all(_inside(word) for word in arguments) else Kind.OTHER
    return Kind.READ if program in _READS else Kind.OTHER


def _wrapped(program: str, arguments: _Words) -> Kind:
    """A program that runs another: where it begins is not known for sure, so anything that follows may be it."""
    if program in _TRANSPARENT and arguments and not _is_option(arguments[0]):
        return _kind(arguments)
    if program == "timeout" and len(arguments) > 1 and re.fullmatch(r"[\d.]+[smhd]?", arguments[0] or ""):
        return _kind(arguments[1:])
    worst = max((_kind(arguments[at:]) for at in range(min(len(arguments), _MAX_WORDS))), default=Kind.OTHER)
    return max(worst, Kind.OTHER)


_MAX_WORDS = 12
"""How far into the arguments of a wrapper is looked for what it wraps; keeps wrappers of wrappers cheap."""


def _is_option(word: str | None) -> bool:
    return word is None or word.startswith("-") or "=" in word


def _inside(path: str | None) -> bool:
    """An option, or a path that stays below the current folder or the sandbox's /workspace."""
    if path is None:
        return False
    below = path.removeprefix("/workspace/")
    return not below.startswith(("/", "~")) and ".." not in below.split("/") and "=/" not in below


def _git(arguments: _Words) -> Kind:
    at = 0
    while at < len(arguments) and (word := arguments[at]) is not None and word.startswith("-"):
        if word not in ("-C", "--no-pager", "-P", "--no-optional-locks"):
            return Kind.OTHER if not _names_destroyer(arguments) else Kind.DESTRUCTIVE
        at += 2 if word == "-C" else 1
    if at >= len(arguments) or arguments[at] is None:
        return Kind.OTHER
    command, rest = arguments[at] or "", arguments[at + 1 :]
    known = {word for word in rest if word is not None}
    if command in _GIT_DESTRUCTIVE or (_GIT_DESTRUCTIVE_WITH.get(command, frozenset()) & _flags(known)):
        return Kind.DESTRUCTIVE
    if command == "stash":
        return Kind.READ if rest and rest[0] in ("list", "show") else Kind.DESTRUCTIVE
    if command == "push":
        deletes = any(word.startswith(("+", ":", "--force")) for word in known)
        return Kind.DESTRUCTIVE if deletes else Kind.NETWORK
    if command in _GIT_NETWORK:
        return Kind.NETWORK
    if command in ("add", "mv", "apply"):
        return Kind.EDIT
    if command in _GIT_READS and not any(word.startswith(_GIT_RUNNING) for word in known):
        return Kind.READ if None not in rest or command not in _GIT_LISTS else Kind.OTHER
    if command in _GIT_LISTS and all(_is_list_option(word) for word in rest):
        return Kind.READ
    return Kind.OTHER


def _names_destroyer(arguments: _Words) -> bool:
    return any(word in _GIT_DESTRUCTIVE for word in arguments)


def _flags(words: set[str]) -> set[str]:
    """Options one by one: ``-fd`` is ``-f`` and ``-d``."""
    short = {f"-{letter}" for word in words if re.fullmatch(r"-[A-Za-z]+", word) for letter in word[1:]}
    return short | {word.partition("=")[0] for word in words}


def _is_list_option(word: str | None) -> bool:
    return word in ("-a", "-r", "-v", "-vv", "-l", "--list", "--all", "--show-current", "show", "--get", "--verbose")


def _find(arguments: _Words) -> Kind:
    if "-delete" in arguments:
        return Kind.DESTRUCTIVE
    for at, word in enumerate(arguments):
        if word in ("-exec", "-execdir", "-ok", "-okdir"):
            return max(_kind(arguments[at + 1 :] or (None,)), Kind.OTHER)
    if any(word is not None and word.startswith(("-fprint", "-fls")) for word in arguments):
        return Kind.OTHER
    return Kind.READ


_SED_PLACE = r"(?:\d+|\$|/[^/\n]*/)"
_SED_SCRIPT = re.compile(
    rf"({_SED_PLACE}(,{_SED_PLACE})?)?[pdq]"
    r"|s/[^/\n]*/[^/\n]*/[gIip\d]*"
    r"|s\|[^|\n]*\|[^|\n]*\|[gIip\d]*"
)
"""Scripts that only print or replace. Others can write files and run programs."""


def _sed(arguments: _Words) -> Kind:
    options = [word for word in arguments if word is not None and word.startswith("-")]
    scripts = [word for word in arguments if word is None or not word.startswith("-")][:1]
    plain = bool(scripts) and scripts[0] is not None and _SED_SCRIPT.fullmatch(scripts[0]) is not None
    if not plain or not all(option in ("-n", "-E", "-r", "-i", "-ni", "-Ei") for option in options):
        return Kind.OTHER
    if not any("i" in option for option in options):
        return Kind.READ
    return Kind.EDIT if all(_inside(word) for word in arguments if word is not scripts[0]) else Kind.OTHER


def _reads_unless(*unsafe: str) -> Callable[[_Words], Kind]:
    """Reads, but for options that write or run something."""

    def judge(arguments: _Words) -> Kind:
        words = [word for word in arguments if word is not None]
        return Kind.OTHER if any(word.startswith(unsafe) for word in words) else Kind.READ

    return judge


def _cd(arguments: _Words) -> Kind:
    """Outside of the folder, a relative path is no longer one inside it."""
    return Kind.READ if len(arguments) == 1 and (_inside(arguments[0]) or arguments[0] == "/workspace") else Kind.OTHER


def _reads_one_file(arguments: _Words) -> Kind:
    """Its second file would be written."""
    files = [word for word in arguments if word is None or not word.startswith("-")]
    return Kind.READ if len(files) <= 1 else Kind.OTHER


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_READS = _set(
    "ls cat head tail wc pwd echo printf true false test [ grep egrep fgrep cut tr diff cmp comm file stat du df which "
    "type basename dirname realpath readlink printenv whoami id uname nl tac rev fold column jq od strings md5sum "
    "sha1sum sha256sum sleep nproc free uptime ps seq expr paste join : exit return"
)
_EDITS = frozenset({"mkdir", "touch", "cp", "mv", "ln", "tee"})
_DESTRUCTIVE = frozenset({"rm", "rmdir", "unlink", "shred", "truncate", "dd", "wipefs", "fdisk", "dropdb"})
_NETWORK = _set(
    "curl wget ssh scp sftp rsync nc ncat netcat telnet ftp ping dig nslookup host gh glab apt apt-get brew dnf yum "
    "socat aria2c"
)
_NETWORK_SUBCOMMANDS = {
    "pip": ("install", "download", "wheel"),
    "pip3": ("install", "download", "wheel"),
    "uv": ("pip", "add", "sync", "lock", "tool", "publish"),
    "npm": ("install", "i", "ci", "add", "update", "publish", "audit"),
    "pnpm": ("install", "i", "add", "update", "publish"),
    "yarn": ("install", "add", "upgrade", "publish"),
    "cargo": ("install", "add", "update", "publish", "fetch"),
    "go": ("get", "install"),
    "gem": ("install", "update", "push"),
    "docker": ("pull", "push", "login"),
}
_DESTRUCTIVE_SUBCOMMANDS = {
    "docker": ("rm", "rmi", "system", "volume", "prune"),
    "kubectl": ("delete", "drain", "replace"),
    "helm": ("uninstall", "delete", "rollback"),
    "terraform": ("destroy", "apply"),
}
WRAPPERS = _set(
    "sudo doas env xargs timeout nice nohup time command exec builtin stdbuf setsid ionice chroot watch parallel "
    "unshare nsenter script strace"
)
"""Programs that run another one."""
_TRANSPARENT = frozenset({"nice", "nohup", "time", "command"})
_GIT_READS = _set(
    "status log show diff blame rev-parse ls-files ls-tree cat-file describe shortlog rev-list merge-base grep "
    "name-rev for-each-ref show-ref diff-tree diff-index count-objects version help whatchanged cherry"
)
_GIT_LISTS = frozenset({"branch", "tag", "remote", "config", "reflog", "worktree", "notes"})
_GIT_NETWORK = frozenset({"fetch", "pull", "clone", "ls-remote", "submodule", "send-email"})
_GIT_DESTRUCTIVE = _set(
    "reset checkout clean restore rebase rm prune filter-branch filter-repo read-tree checkout-index"
)
_GIT_DESTRUCTIVE_WITH = {
    "switch": frozenset({"-f", "--force", "--discard-changes", "-C", "--force-create"}),
    "branch": frozenset({"-d", "-D", "-M", "-f", "--delete", "--force"}),
    "tag": frozenset({"-d", "-f", "--delete", "--force"}),
    "push": frozenset({"-f", "-d", "--delete", "--mirror", "--prune", "--force"}),
    "update-ref": frozenset({"-d", "--stdin"}),
    "worktree": frozenset({"remove", "prune"}),
    "reflog": frozenset({"expire", "delete"}),
    "gc": frozenset({"--prune", "--aggressive"}),
    "merge": frozenset({"--abort"}),
    "cherry-pick": frozenset({"--abort"}),
    "remote": frozenset({"remove", "rm", "prune"}),
}
_GIT_RUNNING = ("--output", "--ext-diff", "--textconv", "-O", "--open-files-in-pager", "--exec-path")
_SPECIAL: dict[str, Callable[[_Words], Kind]] = {
    "git": _git,
    "cd": _cd,
    "find": _find,
    "sed": _sed,
    "sort": _reads_unless("-o", "--o", "--compress"),
    "rg": _reads_unless("--pre", "--hostname-bin"),
    "tree": _reads_unless("-o"),
    "date": _reads_unless("-s", "--s"),
    "uniq": _reads_one_file,
    "xxd": _reads_one_file,
}
