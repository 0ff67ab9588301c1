"""``python -m deploy.compose``: Docker Compose as Debian 13 ships it, for the tests; Debian 12 has none of this line.

Unpacked out of Debian's package into the cache of the user, with no word to the system's own.
"""

import platform
import subprocess
import tempfile
from pathlib import Path

import typer
from platformdirs import user_cache_path

from deploy import pool

VERSION = "2.26.1"
_PACKAGES = {
    "x86_64": (
        f"docker-compose_{VERSION}-4_amd64.deb",
        "47681197cb2b1ab88206b42a1a92fc75f50d9530a6322d03494a473eed0408ea",
    ),
    "aarch64": (
        f"docker-compose_{VERSION}-4_arm64.deb",
        "bbafaa666f3e7fa00ad36f2a8bab889f1c791ca8743d674e7267a3d07203869c",
    ),
}
"""Architecture as the kernel names it -> file and SHA-256."""
_INSIDE = Path("usr/libexec/docker/cli-plugins/docker-compose")


def program() -> Path:
    """Where it is, once it was fetched; it runs without Docker's own command."""
    return user_cache_path("mimo-coder") / "compose" / VERSION / "docker-compose"


def missing() -> str:
    """Why tests cannot use it; "" where nothing is missing."""
    return "" if program().exists() else f"Docker Compose {VERSION} (python -m deploy.compose)"


def fetch() -> None:
    """Fetch it, unless it is there.

    Raises:
        PoolError: no package source of this machine has it.
    """
    if program().exists():
        return
    if platform.machine() not in _PACKAGES:
        raise pool.PoolError(f"the sum of Debian's package for {platform.machine()} is not known")
    file, sha256 = _PACKAGES[platform.machine()]
    program().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program().parent) as folder:
        package = Path(folder, file)
        package.write_bytes(pool.fetch(f"main/d/docker-compose/{file}", sha256))
        subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)
        Path(folder, _INSIDE).replace(program())


def main() -> None:
    """Fetch it, once, and print where it is."""
    try:
        fetch()
    except pool.PoolError as error:
        typer.echo(f"deploy.compose: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(program())


if __name__ == "__main__":
    typer.run(main)
