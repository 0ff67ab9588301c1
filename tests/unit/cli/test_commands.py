"""What the program offers, and that it offers it quickly."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.cli.app import main


def _main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mimo", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code if isinstance(ended.value.code, int) else 0


def test_listing_commands_imports_nothing_heavy() -> None:
    code = """if True:
        import sys
        from agent.cli.app import main
        sys.argv = ["mimo", "task", "--help"]
        try:
            main()
        except SystemExit:
            pass
        heavy = {"httpx", "fastapi", "sqlalchemy", "uvicorn", "rich", "asyncio", "torch"}
        print(sorted(heavy & sys.modules.keys()))
    """
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert output.splitlines()[-1] == "[]"


def test_a_conversation_imports_nothing_of_the_service() -> None:
    code = "import sys, agent.cli.chat.start; print(sorted({'agent.api.schemas', 'fastapi'} & sys.modules.keys()))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


@pytest.mark.parametrize("command", [[], ["run"], ["serve"], ["task"], ["task", "submit"], ["task", "watch"]])
def test_every_command_explains_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert _main(monkeypatch, *command, "--help") == 0
    assert "Usage: " in capsys.readouterr().out


def test_unknown_command_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main(monkeypatch, "repair") == 2
    assert "repair" in capsys.readouterr().err


def test_other_packages_add_commands_by_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shouting.py").write_text(
        "import typer\napp = typer.Typer()\n\n@app.callback()\ndef shout():\n    'Shout things.'\n\n"
        "@app.command()\ndef say(word: str) -> None:\n    typer.echo(word.upper())\n"
    )
    (tmp_path / "shouting-1.dist-info").mkdir()
    (tmp_path / "shouting-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1\n")
    (tmp_path / "shouting-1.dist-info" / "entry_points.txt").write_text("[mimo.commands]\nshout = shouting:app\n")
    monkeypatch.syspath_prepend(tmp_path)

    assert _main(monkeypatch, "shout", "say", "hello") == 0
    assert capsys.readouterr().out == "HELLO\n"
    assert _main(monkeypatch, "--help") == 0
    assert "shout" in capsys.readouterr().out


def test_command_that_cannot_be_loaded_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken-1.dist-info").mkdir()
    (tmp_path / "broken-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (tmp_path / "broken-1.dist-info" / "entry_points.txt").write_text("[mimo.commands]\nbroken = not_there:app\n")
    monkeypatch.syspath_prepend(tmp_path)

    assert _main(monkeypatch, "--help") == 0
    assert "Not available" in capsys.readouterr().out
    assert _main(monkeypatch, "broken") == 1
    assert "not_there" in capsys.readouterr().err


def test_version_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith("mimo ")


def test_interrupted_while_its_modules_are_read_it_says_nothing_of_them() -> None:
    code = """if True:
        import os, signal, sys
        class Interrupting:
            def find_spec(self, name, path=None, target=None):
                if name == "typer":
                    os.kill(os.getpid(), signal.SIGINT)
        from agent.cli.program import main
        sys.meta_path.insert(0, Interrupting())
        main()
    """
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")
