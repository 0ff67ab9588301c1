"""One installation of the chart's small profile, which the tests of this folder share."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.chart.__main__ import ROOT
from deploy.cluster.cluster import Cluster
from deploy.images.services import build_services
from evals.suite import eval_task, nano_heldout
from evals.types import EvalTask
from tests.helm.release import Release

_IMAGES = ("agent", "agent-ray", "model-server", "postgres", "router", "sandboxd", "task")


@pytest.fixture(scope="session")
def loaded(cluster: Cluster) -> Cluster:
    """A cluster that has the images."""
    for archive in build_services(ROOT / "build" / "images", _IMAGES).values():
        cluster.load(archive)
    return cluster


@pytest.fixture(scope="session")
def release(loaded: Cluster) -> Iterator[Release]:
    """Installed as the documentation says, and gone at the end."""
    release = Release(loaded, "mimo", "mimo")
    release.install("--create-namespace")
    yield release
    if release.is_installed():
        release.helm("uninstall", "--wait")


@pytest.fixture(scope="session")
def exercise() -> EvalTask:
    """A task that the small model can do."""
    return eval_task(next(iter(nano_heldout("heldout_names", 1))))


@pytest.fixture(scope="session")
def place(release: Release, exercise: EvalTask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where its repository is in the installation."""
    return asyncio.run(release.put(exercise, tmp_path_factory.mktemp("repository")))
