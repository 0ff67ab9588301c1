"""What is written in our Dockerfiles is what the images are made of, whoever makes them."""

import json
import re
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from deploy.images import debian, dockerfile, python, sbom, services, torch
from deploy.images.errors import ImageError

FOLDER = Path(services.__file__).parent
LOCKS = Path(__file__).parents[3] / "requirements"
FILES = sorted(FOLDER.glob("*.Dockerfile"))
LOCK_OF = {"agent": "agent.txt", "agent-ray": "agent-ray.txt", "model-server": "model.txt", "router": "router.txt"}


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "Dockerfile"
    file.write_text(text)
    return file


def test_settings_are_those_of_the_last_stage(tmp_path: Path) -> None:
    text = """
FROM first AS build
USER nobody
FROM second
ARG VERSION=1
# a comment
ENV A=one \\
    B="two words"
LABEL version="${VERSION}"
USER 7:7
EXPOSE 80
ENTRYPOINT ["/program"]
"""
    read = dockerfile.read(written(tmp_path, text), VERSION="2")
    assert read.arguments == {"VERSION": "2"}
    assert read.config == {
        "Env": ["A=one", "B=two words"],
        "Labels": {"version": "2"},
        "User": "7:7",
        "ExposedPorts": {"80/tcp": {}},
        "Entrypoint": ["/program"],
    }


def test_every_image_has_a_dockerfile() -> None:
    assert set(FILES) == {services.file_of(name) for name in services.NAMES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_base_can_be_given_and_is_a_certain_one(file: Path) -> None:
    text = file.read_text()
    bases = dict(re.findall(r"^ARG (BASE|GO)=(\S+)$", text, re.MULTILINE))
    assert all(re.fullmatch(r"[a-z]+:[0-9.]+[a-z0-9.-]*", base) for base in bases.values())
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) <= {"scratch", *(f"${{{name}}}" for name in bases)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_image_says_what_it_is(file: Path) -> None:
    labels = dockerfile.read(file, VERSION="3.2.1").config["Labels"]
    assert isinstance(labels, dict)
    assert labels["org.opencontainers.image.version"] == "3.2.1"
    assert {f"org.opencontainers.image.{name}" for name in ("title", "description", "licenses")} <= set(labels)


@pytest.mark.parametrize("name", [name for name in services.NAMES if name not in ("sandboxd", "task")])
def test_a_service_is_nobody_special(name: str) -> None:
    """Of the others, whoever starts them says who they are."""
    assert dockerfile.read(services.file_of(name)).config["User"] == "10001:10001"


@pytest.mark.parametrize("name", services.SERVICES)
def test_the_packages_of_an_image_are_those_of_the_lock_that_its_dockerfile_installs(name: str) -> None:
    text = services.file_of(name).read_text().replace("${REQUIREMENTS}", name)
    assert f"requirements/{LOCK_OF[name]}" in text
    locked = set(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", (LOCKS / LOCK_OF[name]).read_text(), re.MULTILINE))
    bill = json.loads(sbom.document(name, "1", packages(name), {}))
    assert {(each["name"], each["version"]) for each in bill["components"]} <= locked


def test_the_model_server_has_nothing_that_only_a_gpu_needs() -> None:
    names = [package.metadata["Name"].lower() for package in packages("model-server")]
    assert "torch" in names
    assert not [name for name in names if name.startswith(torch.LEFT_OUT)]


@pytest.mark.parametrize("name", services.SERVICES)
def test_a_bill_of_materials_names_every_package_once_with_the_hashes_of_the_lock(name: str) -> None:
    bill = json.loads(sbom.document(name, "1", packages(name), {"bash": "5.2"}))
    references = [component["bom-ref"] for component in bill["components"]]
    assert len(references) == len(set(references))
    assert "pkg:deb/debian/bash@5.2" in references
    assert bill["dependencies"] == [{"ref": name, "dependsOn": references}]
    for component in bill["components"]:
        if component["purl"].startswith("pkg:pypi/"):
            assert all(re.fullmatch(r"[0-9a-f]{64}", each["value"]) for each in component["properties"])


def packages(name: str) -> list[Distribution]:
    service = services.SERVICES[name]
    return python.distributions(*service.extras, without=service.without, with_base=bool(service.ours))


def test_a_package_that_is_not_here_is_named_and_not_left_out() -> None:
    with pytest.raises(ImageError, match="no-such-package"):
        debian.versions("bash", "no-such-package")
