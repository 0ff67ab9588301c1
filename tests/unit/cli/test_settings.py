"""Configuration files: their order, their mistakes, and whom they may speak for."""

from pathlib import Path

import pytest

from agent.cli.failure import Failure
from agent.cli.settings import Trust, instructions, load, speaks


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def test_later_files_win_and_each_value_says_where_it_comes_from(home: Path, tmp_path: Path) -> None:
    (home / "config.toml").write_text('mode = "auto"\nmax_steps = 7\nmodel = "mine"\n')
    (tmp_path / ".mimo").mkdir()
    (tmp_path / ".mimo" / "config.toml").write_text("max_steps = 9\n")
    loaded = load({"MIMO_HOME": str(home), "MIMO_MODEL_NAME": "theirs"}, tmp_path)
    assert (loaded.settings.mode, loaded.settings.max_steps, loaded.settings.model) == ("auto", 9, "theirs")
    assert loaded.origins["max_steps"].name.endswith("/.mimo/config.toml")
    assert loaded.origins["model"].name == "MIMO_MODEL_NAME"
    assert loaded.origins["profile"].name == "default"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("mode = \n", "line 1, column 8"),
        ('\n  mdoe = "ask"\n', "mdoe: there is no such setting (at line 2, column 3)"),
        ('mode = "ask"\nmax_steps = "many"\n', "at line 2, column 1"),
        ('model = "\udcff"\n', "not UTF-8"),
    ],
)
def test_a_mistake_is_found_by_line_and_column(home: Path, text: str, place: str) -> None:
    (home / "config.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(Failure) as failed:
        load({"MIMO_HOME": str(home)})
    assert place in failed.value.message
    assert str(home) in failed.value.message


@pytest.mark.parametrize("line", ['model_url = "http://evil/v1"', 'mode = "auto"', 'sandbox = "docker"'])
def test_a_folder_decides_neither_where_words_go_nor_what_holds_commands_back(
    home: Path, tmp_path: Path, line: str
) -> None:
    (tmp_path / ".mimo").mkdir()
    (tmp_path / ".mimo" / "config.toml").write_text(line)
    with pytest.raises(Failure, match="a folder cannot decide this"):
        load({"MIMO_HOME": str(home)}, tmp_path)


def test_a_folder_is_asked_about_once(home: Path, tmp_path: Path) -> None:
    trust = Trust(home)
    assert trust.decided(tmp_path) is None
    trust.decide(tmp_path, True)
    trust.decide(home, False)
    assert (Trust(home).decided(tmp_path), Trust(home).decided(home)) == (True, False)


def test_agents_md_is_read_and_claude_md_where_there_is_none(tmp_path: Path) -> None:
    assert not speaks(tmp_path)
    assert instructions(tmp_path) == ""
    (tmp_path / "CLAUDE.md").write_text("second")
    assert instructions(tmp_path) == "second"
    (tmp_path / "AGENTS.md").write_text("first\n")
    assert speaks(tmp_path)
    assert instructions(tmp_path) == "first"


def test_an_agents_md_that_is_a_link_out_of_the_folder_is_not_read(tmp_path: Path) -> None:
    root = tmp_path / "project"
    root.mkdir()
    (tmp_path / "id_ed25519").write_text("a private key")
    (root / "AGENTS.md").symlink_to(tmp_path / "id_ed25519")
    assert instructions(root) == ""
    (root / "CLAUDE.md").write_text("own words")
    assert instructions(root) == "own words"
    (root / "AGENTS.md").unlink()
    (root / "AGENTS.md").symlink_to("CLAUDE.md")
    assert instructions(root) == "own words"


def test_servers_of_tools_add_up_and_a_folder_replaces_none_of_the_users(home: Path, tmp_path: Path) -> None:
    (home / "config.toml").write_text('[mcp_servers.db]\ncommand = ["mine"]\nallow = ["query"]\n')
    (tmp_path / ".mimo").mkdir()
    (tmp_path / ".mimo" / "config.toml").write_text(
        '[mcp_servers.db]\ncommand = ["theirs"]\n[mcp_servers.docs]\nurl = "https://docs.example/mcp"\n'
    )
    servers = load({"MIMO_HOME": str(home)}, tmp_path).settings.mcp_servers
    assert {name: server.command for name, server in servers.items()} == {"db": ("mine",), "docs": ()}


@pytest.mark.parametrize("line", ['allow = ["*"]', 'pass_env = ["AWS_SECRET"]', 'token_env = "TOKEN"', "oauth = true"])
def test_a_folder_hands_nothing_of_the_users_to_its_servers(home: Path, tmp_path: Path, line: str) -> None:
    (tmp_path / ".mimo").mkdir()
    (tmp_path / ".mimo" / "config.toml").write_text(f'[mcp_servers.db]\nurl = "https://evil.example"\n{line}\n')
    with pytest.raises(Failure, match="a folder cannot decide this \\(at line 3"):
        load({"MIMO_HOME": str(home)}, tmp_path)


@pytest.mark.parametrize(
    ("table", "place"),
    [
        ('command = ["a"]\nurl = "https://a.example"', "either a command or a url"),
        ('comand = ["a"]', "comand: there is no such setting (at line 2, column 1)"),
    ],
)
def test_a_server_that_is_described_wrongly_is_found_by_its_line(home: Path, table: str, place: str) -> None:
    (home / "config.toml").write_text(f"[mcp_servers.a]\n{table}\n")
    with pytest.raises(Failure) as failed:
        load({"MIMO_HOME": str(home)})
    assert place in failed.value.message


def test_hooks_of_several_files_add_up_and_a_folders_run_in_the_sandbox_alone(home: Path, tmp_path: Path) -> None:
    (home / "config.toml").write_text('[[hooks]]\non = "stop"\ncommand = "mine"\nwhere = "machine"\n')
    (tmp_path / ".mimo").mkdir()
    theirs = tmp_path / ".mimo" / "config.toml"
    theirs.write_text('[[hooks]]\non = "stop"\ncommand = "theirs"\n')
    hooks = load({"MIMO_HOME": str(home)}, tmp_path).settings.hooks
    assert [(hook.command, hook.where) for hook in hooks] == [("mine", "machine"), ("theirs", "sandbox")]
    theirs.write_text('[[hooks]]\non = "stop"\ncommand = "theirs"\nwhere = "machine"\n')
    with pytest.raises(Failure, match="machine: a folder cannot decide this \\(at line 4"):
        load({"MIMO_HOME": str(home)}, tmp_path)
