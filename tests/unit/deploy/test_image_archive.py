"""An image's archive is what every reader of such archives expects."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from deploy.images import archive
from deploy.images.archive import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    program = tmp_path / "program"
    program.write_bytes(b"#!/bin/sh\n")
    program.chmod(0o4755)
    return Tree(
        files={"bin/program": program, "bin/sh": program, "etc/name": program},
        texts={"etc/name": "image\n"},
        links={"bin/sh": "program"},
        folders={"tmp": 0o1777},
    )


def written(tmp_path: Path, tree: Tree, name: str = "one.tar") -> dict[str, bytes]:
    """The archive's files by their names."""
    layers = [archive.write_layer(tmp_path / f"{name}.layer", tree)]
    archive.write(tmp_path / name, "example.test/image:1", layers, {"Cmd": ["/bin/program"]})
    with tarfile.open(tmp_path / name) as tar:
        contents = {member.name: tar.extractfile(member) for member in tar}
        return {path: content.read() for path, content in contents.items() if content is not None}


def layer(files: dict[str, bytes]) -> tarfile.TarFile:
    (about,) = json.loads(files["manifest.json"])
    return tarfile.open(fileobj=io.BytesIO(files[about["Layers"][0]]))


def test_every_blob_has_the_digest_and_the_size_that_name_it(tmp_path: Path, tree: Tree) -> None:
    files = written(tmp_path, tree)
    index = json.loads(files["index.json"])["manifests"][0]
    manifest = json.loads(files[f"blobs/sha256/{index['digest'].removeprefix('sha256:')}"])
    for described in (index, manifest["config"], *manifest["layers"]):
        blob = files[f"blobs/sha256/{described['digest'].removeprefix('sha256:')}"]
        assert described["digest"] == f"sha256:{hashlib.sha256(blob).hexdigest()}"
        assert described["size"] == len(blob)


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path, tree: Tree) -> None:
    assert written(tmp_path, tree, "one.tar") == written(tmp_path, tree, "two.tar")


def test_no_path_is_in_a_layer_twice(tmp_path: Path, tree: Tree) -> None:
    with layer(written(tmp_path, tree)) as tar:
        assert sorted(tar.getnames()) == ["bin/program", "bin/sh", "etc/name", "tmp"]
        assert tar.getmember("bin/sh").issym()


def test_no_program_of_an_image_runs_as_somebody_else(tmp_path: Path, tree: Tree) -> None:
    with layer(written(tmp_path, tree)) as tar:
        program = tar.getmember("bin/program")
        assert (program.mode, program.uid, program.gid) == (0o755, 0, 0)
