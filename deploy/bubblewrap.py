"""``python -m deploy.bubblewrap``: bubblewrap as Debian 13 ships it, for the tests on machines that have an older one.

Built from Debian's source into the cache of the user, with no word to the system's own.
"""

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import typer
from platformdirs import user_cache_path

from deploy import pool

VERSION = "0.12.0"
_SHA256 = "9760d007363e3abba7c747489910f9f82d9fca53ba3bd3282e396fa3c97a3314"
_SOURCE = f"main/b/bubblewrap/bubblewrap_{VERSION}.orig.tar.xz"
_NEEDS = {"meson": "meson", "ninja": "ninja-build", "pkg-config": "pkg-config", "cc": "gcc"}
_HEADER = Path("/usr/include/sys/capability.h")
_OPTIONS = (
    "--buildtype=release",
    *(f"-D{left_out}=disabled" for left_out in ("selinux", "man", "bash_completion", "zsh_completion")),
    "-Dtests=false",
)

app = typer.Typer(no_args_is_help=True, add_completion=False, help="bubblewrap for the tests.")


class BubblewrapError(Exception):
    """It cannot be built here."""


def packages() -> list[str]:
    """The Debian packages that have to be installed before it can be built."""
    absent = [package for program, package in _NEEDS.items() if shutil.which(program) is None]
    return [] if built().exists() else absent + ([] if _HEADER.exists() else ["libcap-dev"])


def built() -> Path:
    """Where it is, once it was built."""
    return user_cache_path("mimo-coder") / "bubblewrap" / VERSION / "bwrap"


def missing() -> str:
    """Why tests cannot use it; "" where nothing is missing."""
    return "" if built().exists() else f"bubblewrap {VERSION} (python -m deploy.bubblewrap build)"


def build() -> None:
    """Fetch and compile it, unless it is there.

    Raises:
        PoolError: no package source of this machine has it.
        BubblewrapError: something to build it with is missing, or the compiler says no.
    """
    if built().exists():
        return
    if absent := packages():
        raise BubblewrapError(f"it needs the Debian packages {' '.join(absent)}")
    built().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=built().parent) as folder:
        with tarfile.open(fileobj=io.BytesIO(pool.fetch(_SOURCE, _SHA256))) as source:
            source.extractall(folder, filter="data")
        (tree,) = Path(folder).iterdir()
        _run("meson", "setup", *_OPTIONS, "made", at=tree)
        _run("ninja", "-C", "made", at=tree)
        (tree / "made" / "bwrap").replace(built())  # two that build at once build the same


def _run(*command: str, at: Path) -> None:
    done = subprocess.run(command, cwd=at, capture_output=True, text=True, check=False, env={**os.environ, "LANG": "C"})
    if done.returncode:
        raise BubblewrapError(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()[-1000:]}")


@app.command("packages")
def show_packages() -> None:
    """Print the Debian packages that a build needs and this machine lacks."""
    typer.echo(" ".join(packages()))


@app.command("build")
def build_or_say_why_not() -> None:
    """Build it, once, and print where it is."""
    try:
        build()
    except (BubblewrapError, pool.PoolError) as error:
        typer.echo(f"deploy.bubblewrap: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(built())


if __name__ == "__main__":
    app()
