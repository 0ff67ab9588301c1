"""What an image is made of, as a CycloneDX 1.6 document: https://cyclonedx.org/docs/1.6/json/."""

import json
import re
from collections.abc import Collection, Mapping
from functools import cache
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

_LOCK = Path(__file__).parents[2] / "requirements" / "dev.txt"
_PIN = re.compile(r"^([a-z0-9][a-z0-9.-]*)==([^\s;]+)(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def document(name: str, version: str, packages: Collection[Distribution], system: Mapping[str, str]) -> str:
    """A document of our packages of Python and of Debian's, by name -> version.

    The lock names all files that are a version of a package; which of them was installed is one of those hashes.

    Raises:
        ValueError: a package is not the one of the lock.
    """
    components = [*map(_python, packages), *(_debian(*package) for package in sorted(system.items()))]
    about = {"type": "container", "name": name, "version": version, "bom-ref": name}
    return json.dumps(
        {
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "metadata": {"component": about},
            "components": components,
            "dependencies": [{"ref": name, "dependsOn": [component["bom-ref"] for component in components]}],
        },
        indent=1,
        sort_keys=True,
    )


def _python(package: Distribution) -> dict[str, Any]:
    name = canonicalize_name(package.metadata["Name"])
    hashes = _locked().get((name, package.version))
    if hashes is None:
        raise ValueError(f"{name} {package.version} is installed, and not what requirements/dev.txt names")
    properties = [{"name": "lock:sha256", "value": one} for one in hashes]
    return {**_component("pypi", name, package.version), "properties": properties}


def _debian(name: str, version: str) -> dict[str, Any]:
    return _component("deb/debian", name, version)


def _component(kind: str, name: str, version: str) -> dict[str, Any]:
    url = f"pkg:{kind}/{name}@{version}"
    return {"type": "library", "name": name, "version": version, "purl": url, "bom-ref": url}


@cache
def _locked() -> dict[tuple[str, str], list[str]]:
    """Name and version -> the hashes of its files."""
    return {(name, version): _HASH.findall(rest) for name, version, rest in _PIN.findall(_LOCK.read_text())}
