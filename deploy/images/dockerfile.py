"""The settings of containers that a Dockerfile's last stage gives, so that they are written down once.

Read is what our own Dockerfiles use: https://docs.docker.com/reference/dockerfile/, commands as lists alone.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

_CONTINUED = re.compile(r"\\\n")
_LISTS = {"ENTRYPOINT": "Entrypoint", "CMD": "Cmd"}
_WORDS = {"USER": "User", "WORKDIR": "WorkingDir", "STOPSIGNAL": "StopSignal"}


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """The last stage of one.

    Attributes:
        arguments: what can be given to a build, with the defaults.
        config: settings of containers, as the specification of images calls them.
    """

    arguments: Mapping[str, str]
    config: Mapping[str, object]


def read(file: Path, **given: str) -> Dockerfile:
    """Read a Dockerfile, with some of its arguments given."""
    arguments: dict[str, str] = {}
    config: dict[str, Any] = {}
    for word, rest in _last_stage(file.read_text()):
        if word == "ARG":
            name, _, default = rest.partition("=")
            arguments[name] = given.get(name, "".join(shlex.split(default)))
            continue
        text = Template(rest).safe_substitute(arguments)
        if word in _LISTS:
            config[_LISTS[word]] = json.loads(text)
        elif word in _WORDS:
            config[_WORDS[word]] = text
        elif word == "ENV":
            config.setdefault("Env", []).extend(shlex.split(text))
        elif word == "LABEL":
            config.setdefault("Labels", {}).update(pair.split("=", 1) for pair in shlex.split(text))
        elif word == "EXPOSE":
            config["ExposedPorts"] = {f"{port}/tcp": {} for port in text.split()}
        elif word == "VOLUME":
            config["Volumes"] = {place: {} for place in json.loads(text)}
    return Dockerfile(arguments, config)


def _last_stage(text: str) -> Iterator[tuple[str, str]]:
    """Its instructions and what follows them on their lines."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    whole = _CONTINUED.sub(" ", "\n".join(lines)).splitlines()
    start = max(number for number, line in enumerate(whole) if line.startswith("FROM "))
    for line in whole[start + 1 :]:
        word, _, rest = line.partition(" ")
        yield word, rest.strip()
