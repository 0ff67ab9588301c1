"""``python -m tests.ordinary_user HOME COMMAND...``: a command without privilege, for tests that the superuser runs.

Its user is one that nobody is. He sees of this machine what everybody may, and beside that this checkout, its Python
and what was built into the superuser's cache, even where they lie in folders that others may not enter. His network is
one of his own, without a way out, in which he may listen on every port.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from platformdirs import user_cache_path

from sandbox import linux
from sandbox.local import namespaces

UID = 61_357
ROOT = Path(__file__).parents[1]
_OTHERS_MAY_ENTER = 0o001


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run it in this checkout, with a home that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="mimo-ordinary-") as home:
        os.chown(home, UID, UID)
        entered = [sys.executable, "-m", __name__, home, *command]
        return subprocess.run(entered, cwd=ROOT, capture_output=True, text=True, check=False)


def missing() -> str:
    """Why he can make no sandboxes here; "" where he can."""
    if os.geteuid() != 0:
        return "another user can be taken by the superuser alone"
    tried = run("unshare", "--user", "--pid", "--fork", "true")
    return (
        f"this machine lets no ordinary user make user namespaces: {tried.stderr.strip()}" if tried.returncode else ""
    )


def main(argv: Sequence[str]) -> None:
    home, *command = argv
    cache = user_cache_path("mimo-coder")
    linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWNET)
    linux.mount("", "/", "", linux.MS_REC | linux.MS_PRIVATE)
    _let_in([ROOT, Path(sys.prefix), Path(sys.base_prefix), cache])
    namespaces.raise_loopback()
    Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")
    os.setgroups([])
    os.setresgid(UID, UID, UID)
    os.setresuid(UID, UID, UID)
    own = {"HOME": home, "TMPDIR": home, "XDG_CACHE_HOME": str(cache.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    os.execvpe(command[0], command, {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **own})


def _let_in(needed: Sequence[Path]) -> None:
    """Cover each folder that keeps others from what is needed with one that has nothing else in it."""
    behind = {path: closed for path in needed if (closed := _closed(path))}
    trees = {path: linux.clone_tree(str(path), namespaces.SEALED) for path in sorted(behind)}
    for closed in set(behind.values()):
        namespaces.mount_memory(str(closed), "mode=0755,size=1m")
    for path, tree in trees.items():
        path.mkdir(parents=True, exist_ok=True)
        linux.attach_tree(tree, os.open(path, os.O_PATH))


def _closed(path: Path) -> Path | None:
    """The outermost folder on the way that others may not enter."""
    return next((each for each in reversed(path.parents) if not each.stat().st_mode & _OTHERS_MAY_ENTER), None)


if __name__ == "__main__":
    main(sys.argv[1:])
