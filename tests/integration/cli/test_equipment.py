"""``mimo skill`` and ``mimo mcp-server`` against a running service."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Mimo, start

SKILL = "---\nname: release\ndescription: Before a release\n---\n\nAsk Ada.\n"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[str]:
    process = start("serve", "--port", 0, "--model-url", "http://127.0.0.1:9/v1", home=tmp_path / "service")
    assert process.stderr is not None
    try:
        yield next(word for line in process.stderr if "ready" in line for word in line.split() if "http://" in word)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_a_skill_is_added_from_its_file_replaced_shown_as_a_file_and_removed(
    mimo: Mimo, service: str, tmp_path: Path
) -> None:
    where = ("--server", service)
    file = tmp_path / "SKILL.md"
    file.write_text(SKILL)
    assert mimo("skill", "add", file, *where).err == "Added release.\n"
    again = mimo("skill", "add", tmp_path, *where)
    assert (again.code, "already" in again.err) == (2, True)
    file.write_text(SKILL.replace("Ada", "Alan"))
    assert mimo("skill", "add", tmp_path, "--replace", *where).code == 0
    assert "Before a release" in mimo("skill", "list", *where).out
    file.write_text(mimo("skill", "show", "release", *where).out)
    assert "Ask Alan." in file.read_text()
    assert mimo("skill", "add", file, "--replace", *where).code == 0
    assert mimo("skill", "remove", "release", *where).code == 0
    assert json.loads(mimo("skill", "list", "-o", "json", *where).out) == {"skills": []}
    assert mimo("skill", "show", "release", *where).code == 2


def test_a_server_of_tools_is_added_replaced_and_removed(mimo: Mimo, service: str) -> None:
    where, named = ("--server", service), ("tracker", "https://tracker.example/mcp")
    assert mimo("mcp-server", "add", *named, "--tool", "find", *where).err == "Added tracker.\n"
    assert mimo("mcp-server", "add", *named, *where).code == 2
    replaced = mimo("mcp-server", "add", *named, "--replace", "--header", "X-Team: web", "--timeout", 5, *where)
    assert replaced.code == 0, replaced.err
    shown = json.loads(mimo("mcp-server", "show", "tracker", *where).out)
    assert (shown["tools"], shown["headers"], shown["timeout_s"]) == (None, {"X-Team": "web"}, 5)
    assert "tracker.example" in mimo("mcp-server", "list", *where).out
    assert mimo("mcp-server", "remove", "tracker", *where).code == 0
    assert mimo("mcp-server", "show", "tracker", *where).code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("skill", "add", "nowhere.md"), "nowhere.md: No such file"),
        (("mcp-server", "add", "t", "ftp://x"), "url: String should match"),
        (("mcp-server", "add", "t", "http://x/", "--header", "words"), "not of the form NAME:VALUE"),
        (("mcp-server", "add", "t", "http://x/", "--header", "Cookie: a"), "--header: Value error, Cookie is readable"),
    ],
)
def test_what_no_service_would_take_is_refused_in_words(mimo: Mimo, arguments: tuple[str, ...], said: str) -> None:
    ended = mimo(*arguments)
    assert ended.code == 2
    assert said in ended.err
