"""``mimo config``: what the user's file says, and changes of it."""

from pathlib import Path

import pytest

from .conftest import Mimo

MINE = """\
# mine
mode = "ask"  # careful

[mcp_servers.db]  # data
command = ["db", "--read-only"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "home" / "config.toml"
    path.parent.mkdir()
    path.write_text(MINE)
    return path


def test_a_value_is_written_and_all_else_of_the_file_stays(mimo: Mimo, file: Path) -> None:
    written = [
        mimo("config", "set", *change)
        for change in (
            ("mode", "accept edits"),
            ("thinking", "true"),
            ("model", "7"),
            ("mcp_servers.db.timeout_s", "5"),
            ("mcp_servers.web", '{url = "http://localhost/"}'),
        )
    ]

    assert [ended.code for ended in written] == [0] * 5, written
    changed = MINE.replace('"ask"', '"accept edits"').replace("\n\n", '\nthinking = true\nmodel = "7"\n\n')
    assert file.read_text().startswith(f"{changed}timeout_s = 5\n")
    assert mimo("config", "get", "mcp_servers.web.url").out == "http://localhost/\n"


def test_a_value_is_read_as_it_holds(mimo: Mimo, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIMO_MODEL_NAME", "from the environment")

    assert mimo("config", "get", "mode").out == "ask\n"
    assert mimo("config", "get", "max_steps").out == "200\n"
    assert mimo("config", "get", "mcp_servers.db.command").out == '["db", "--read-only"]\n'
    assert mimo("config", "get", "profile").out == "\n"
    assert mimo("config", "get", "model").out == "from the environment\n"
    set_too = mimo("config", "set", "model", "mine")
    assert "MIMO_MODEL_NAME is set too, and wins" in set_too.err


def test_the_first_value_makes_the_file_for_its_user_alone(mimo: Mimo, tmp_path: Path) -> None:
    assert mimo("config", "set", "mcp_servers.web.url", "http://localhost/").code == 0
    file = tmp_path / "home" / "config.toml"
    assert file.read_text() == '[mcp_servers.web]\nurl = "http://localhost/"\n'
    assert file.stat().st_mode & 0o077 == 0


def test_a_link_to_the_file_stays_one(mimo: Mimo, file: Path, tmp_path: Path) -> None:
    kept = file.rename(tmp_path / "dotfiles.toml")
    file.symlink_to(kept)
    assert mimo("config", "set", "mode", "auto").code == 0
    assert file.is_symlink()
    assert 'mode = "auto"  # careful' in kept.read_text()


def test_a_value_is_taken_out_again(mimo: Mimo, file: Path) -> None:
    assert "no more" in mimo("config", "unset", "mode").err
    assert "is not in" in mimo("config", "unset", "mode").err
    assert mimo("config", "get", "mode").out == "ask\n"
    assert mimo("config", "unset", "mcp_servers.db.command").code == 2
    assert "command = " in file.read_text()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mode", "never", "'plan', 'ask', 'accept edits' or 'auto'"),
        ("max_steps", "5000", "less than or equal to 1000"),
        ("modes", "ask", "use one of model_url, model, profile, mode"),
        ("mcp_servers.db.adress", "x", "in mcp_servers.db use one of command, env, pass_env, url"),
        ("mode.x", "1", "mode is no table"),
        ("", "1", "there is no setting"),
    ],
)
def test_what_may_not_be_is_refused_with_what_may(mimo: Mimo, file: Path, key: str, value: str, message: str) -> None:
    ended = mimo("config", "set", key, value)

    assert ended.code == 2
    assert message in ended.err
    assert file.read_text() == MINE


def test_a_setting_that_is_not_there_has_no_value(mimo: Mimo, file: Path) -> None:
    assert "use one of model_url" in mimo("config", "get", "modes").err
    assert "in mcp_servers use one of db" in mimo("config", "get", "mcp_servers.web").err
    assert mimo("config", "get", "mode.x").code == 2


def test_a_broken_file_is_not_written_to(mimo: Mimo, file: Path) -> None:
    file.write_text("mode = \n")
    ended = mimo("config", "set", "mode", "auto")

    assert ended.code == 2
    assert "line 1" in ended.err
    assert file.read_text() == "mode = \n"
