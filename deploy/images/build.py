"""The images of a cluster: the one that holds a pod's namespaces, the one that brings sandboxd, and one to work in."""

import logging
import tempfile
from collections.abc import Mapping
from importlib.metadata import Distribution, distribution
from pathlib import Path

from deploy.images import archive, debian, dockerfile
from deploy.images.archive import Tree
from deploy.images.dockerfile import Dockerfile
from sandbox import image
from sandbox.program import sandboxd

PAUSE = "mimo.local/pause:1"
SANDBOXD = "mimo.local/sandboxd:1"
TASK = "mimo.local/task:1"
_TEST_RUNNER = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")

_log = logging.getLogger(__name__)


def build_images(folder: Path, pause: Path) -> dict[str, Path]:
    """Write all of them as archives into ``folder``; by name. ``pause`` is the program that waits."""
    folder.mkdir(parents=True, exist_ok=True)
    task = task_dockerfile()
    return {
        PAUSE: _write(folder, PAUSE, Tree(files={"pause": pause}), {"Entrypoint": ["/pause"]}),
        SANDBOXD: _write(folder, SANDBOXD, Tree(files={"sandboxd": sandboxd(None)}), {"Entrypoint": ["/sandboxd"]}),
        TASK: _write(folder, TASK, task_tree(task), task.config),
    }


def task_dockerfile(**given: str) -> Dockerfile:
    return dockerfile.read(Path(__file__).with_name("task.Dockerfile"), **given)


def _write(folder: Path, name: str, tree: Tree, config: Mapping[str, object]) -> Path:
    """Whole or not at all: two may do so at once."""
    target = folder / f"{name.rpartition('/')[2].replace(':', '-')}.tar"
    _log.info("building the image %s", name)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        layer = archive.write_layer(Path(work, "layer"), tree)
        archive.write(Path(work, "image.tar"), name, [layer], config)
        Path(work, "image.tar").replace(target)
    return target


def task_tree(described: Dockerfile) -> Tree:
    """What the image to work in holds: the packages of its Dockerfile, pytest, and the files of every sandbox."""
    system = debian.files(*described.arguments["PACKAGES"].split())
    python = Path("/usr/bin/python3").readlink().name
    return Tree(
        files={**system, **_test_runner(f"usr/local/lib/{python}/dist-packages")},
        texts={
            **{path.lstrip("/"): text for path, text in image.files().items()},
            "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",  # a pod may have a name server
        },
        links={
            **{merged: f"usr/{merged}" for merged in ("bin", "sbin", "lib", "lib64")},
            "usr/bin/awk": "mawk",
            "usr/bin/sh": "bash",
            "usr/bin/which": "which.debianutils",
            "usr/local/bin/python": f"/usr/bin/{python}",
        },
        folders={
            "tmp": 0o1777,
            "var/tmp": 0o1777,
            "workspace": 0o777,
            "home/sandbox": 0o777,
            "root": 0o700,
            "run": 0o755,
            "mnt": 0o755,
        },
    )


def pytest_packages() -> list[Distribution]:
    """The packages of pytest in our own environment: Python without compiled parts."""
    return [distribution(name) for name in _TEST_RUNNER]


def _test_runner(place: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for installed in pytest_packages():
        for file in installed.files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                found[f"{place}/{file}"] = Path(str(installed.locate_file(file)))
    return found
