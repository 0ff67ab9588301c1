"""Images are made for real, without Docker and a registry."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from deploy.images.services import build_services

BILL = "usr/share/mimo/sbom.cdx.json"


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "part"), [("postgres", "pkg:deb/debian/postgresql-15@"), ("task", "pkg:pypi/pytest@")]
)
def test_an_image_of_others_programs_says_what_it_is_made_of(name: str, part: str, tmp_path: Path) -> None:
    [archive] = build_services(tmp_path, [name]).values()
    components = json.loads(in_image(archive, BILL))["components"]
    assert any(component["purl"].startswith(part) for component in components)


def in_image(archive: Path, path: str) -> bytes:
    """A file of an image of one layer."""
    with tarfile.open(archive) as image:
        [about] = json.loads(read(image, "manifest.json"))
        [layer] = about["Layers"]
        with tarfile.open(fileobj=io.BytesIO(read(image, layer))) as files:
            return read(files, path)


def read(archive: tarfile.TarFile, path: str) -> bytes:
    content = archive.extractfile(path)
    assert content is not None
    return content.read()
