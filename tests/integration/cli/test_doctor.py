"""What says whether all is well, and what is set."""

import subprocess
import sys
from pathlib import Path

from agent.testing import call, in_order
from agent.testing.serving import serving
from tests.integration.agent_core.test_probe import Gateway
from tests.integration.cli.conftest import Mimo, answering, start

GIVE_UP = call("finish")


def test_doctor_names_what_does_not_work_and_goes_on(mimo: Mimo) -> None:
    ended = mimo("doctor", "--model-url", "http://127.0.0.1:9/v1")
    assert ended.code == 1
    assert "✓ sandbox (local)    a command ran in it" in ended.out
    assert "✗ model" in ended.out


def test_doctor_tries_all_that_the_agent_needs_of_an_endpoint(mimo: Mimo) -> None:
    with serving(Gateway().app) as port:
        ended = mimo("doctor", "--model-url", f"http://127.0.0.1:{port}/v1", "--model", "m")
    assert [line[:1] for line in ended.out.splitlines() if " model " in line] == ["✓"] * 7
    assert ended.code == 0


def test_doctor_finds_an_endpoint_that_drops_reasoning(mimo: Mimo) -> None:
    with serving(Gateway("reasoning_content").app) as port:
        ended = mimo("doctor", "--model-url", f"http://127.0.0.1:{port}/v1", "--model", "m")
    assert [line for line in ended.out.splitlines() if line.startswith("✗")] == [
        line for line in ended.out.splitlines() if "the endpoint drops reasoning_content" in line
    ]
    assert ended.code == 1


def test_config_show_says_where_values_come_from(mimo: Mimo, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text("max_steps = 7\n")
    out = mimo("config", "show", "--origin").out
    line = next(line for line in out.splitlines() if line.startswith("max_steps"))
    assert line.split() == ["max_steps", "=", "7", str(tmp_path / "home" / "config.toml")]


def test_completion_offers_what_there_is() -> None:
    environment = {"COMP_WORDS": "mimo task su", "COMP_CWORD": "2", "_MIMO_COMPLETE": "complete_bash"}
    command = [sys.executable, "-c", "from agent.cli.app import main; main()"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.stdout.split() == ["submit"]


def test_a_message_on_standard_input_reaches_the_agent_while_it_works(checkout: Path, tmp_path: Path) -> None:
    with answering(in_order(call("bash", command="sleep 1"), GIVE_UP, GIVE_UP)) as url:
        options = ("--repo", checkout, "--model-url", url, "--input", "stream-json", "--output", "stream-json")
        running = start("run", *options, home=tmp_path / "home", stdin=subprocess.PIPE)
        out, _ = running.communicate('{"text": "repair it"}\n{"text": "with care"}\n')
    assert '"problem_statement":"repair it"' in out
    assert '"type":"message.taken"' in out
    assert running.returncode == 1
