"""``mimo run`` against real checkouts, with real sandboxes and a scripted endpoint over real HTTP."""

import json
import signal
from pathlib import Path

import pytest

from agent.api.schemas import TaskView
from agent.testing import Cut, Garbage, ScriptedEndpoint, Stalled, Status, call, turns

from .conftest import CHECK, GIVE_UP, REPAIR, Mimo, answering, commit, git, start


def test_repair_is_printed_and_reported(mimo: Mimo, checkout: Path, repairing: str) -> None:
    ended = mimo("run", "add() subtracts", "--repo", checkout, "--model-url", repairing, "--check", CHECK)

    assert ended.code == 0, ended.err
    assert ended.out.startswith("diff --git a/calc.py b/calc.py")
    assert "+    return a + b\n" in ended.out
    assert "Verified" in ended.err
    assert "$ cat calc.py" in ended.err
    assert "edited line 2" in ended.err
    assert git(checkout, "status", "--porcelain") == ""


def test_json_has_the_shape_of_the_api(mimo: Mimo, checkout: Path, repairing: str) -> None:
    ended = mimo("run", "add() subtracts", "--repo", checkout, "--model-url", repairing, "--check", CHECK, "-o", "json")

    task = TaskView.model_validate_json(ended.out)
    shown = json.loads(ended.out)
    assert (shown["status"], shown["stop_reason"], shown["verdict"]["kind"]) == ("succeeded", "finished", "verified")
    assert shown["verdict"]["evidence"][0]["command"] == CHECK
    assert shown["steps"] == 3
    assert shown["usage"]["prompt_tokens"] == 300
    assert task.patch == shown["patch"]
    assert task.base_commit == git(checkout, "rev-parse", "HEAD").strip()


def test_stream_has_every_event_and_then_the_result(mimo: Mimo, checkout: Path, repairing: str) -> None:
    ended = mimo("run", "add() subtracts", "--repo", checkout, "--model-url", repairing, "-q", "-o", "stream-json")

    *events, result = [json.loads(line) for line in ended.out.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert (events[0]["type"], events[-1]["type"]) == ("task.submitted", "task.finished")
    assert result["type"] == "result"
    assert TaskView.model_validate(result["task"]).patch
    assert ended.err == ""


def test_apply_changes_the_checkout(mimo: Mimo, checkout: Path, repairing: str) -> None:
    ended = mimo("run", "add() subtracts", "--repo", checkout, "--model-url", repairing, "--check", CHECK, "--apply")

    assert ended.code == 0, ended.err
    assert ended.out == ""
    assert (checkout / "calc.py").read_text() == "def add(a, b):\n    return a + b\n"


def test_unproved_patch_is_not_applied_where_proof_is_required(mimo: Mimo, checkout: Path, repairing: str) -> None:
    ended = mimo(
        *("run", "add() subtracts", "--repo", checkout, "--model-url", repairing),
        *("--check", "false", "--require-verified", "--apply"),
    )

    assert ended.code == 3
    assert "not applied" in ended.err
    assert "+    return a + b" in ended.out
    assert git(checkout, "status", "--porcelain") == ""


def test_directory_inside_the_checkout_will_do(mimo: Mimo, checkout: Path, repairing: str) -> None:
    (checkout / "docs").mkdir()
    ended = mimo("run", "add() subtracts", "--repo", checkout / "docs", "--model-url", repairing, "--check", CHECK)

    assert ended.code == 0, ended.err


def test_tests_of_the_commit_are_the_default_check(mimo: Mimo, checkout: Path, repairing: str) -> None:
    (checkout / "test_calc.py").write_text("from calc import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n")
    commit(checkout)

    ended = mimo("run", "add() subtracts", "--repo", checkout, "--model-url", repairing, "-o", "json")

    verdict = json.loads(ended.out)["verdict"]
    assert (verdict["kind"], verdict["evidence"][0]["command"]) == ("verified", "python -m pytest -q")


def test_no_check_and_no_tests_prove_nothing(mimo: Mimo, checkout: Path, repairing: str) -> None:
    ended = mimo("run", "add() subtracts", "--repo", checkout, "--model-url", repairing)

    assert ended.code == 0
    assert "nothing proves the patch" in ended.err


def test_no_change_is_a_failure(mimo: Mimo, checkout: Path) -> None:
    with answering(GIVE_UP) as url:
        ended = mimo("run", "add() subtracts", "--repo", checkout, "--model-url", url)

    assert ended.code == 1
    assert "No change" in ended.err


def test_regression_is_a_failure(mimo: Mimo, checkout: Path, repairing: str) -> None:
    ended = mimo("run", "x", "--repo", checkout, "--model-url", repairing, "--check", "grep -q 'a - b' calc.py")

    assert ended.code == 1
    assert "Regressed" in ended.err


def test_step_limit_has_its_own_code(mimo: Mimo, checkout: Path, repairing: str) -> None:
    ended = mimo("run", "x", "--repo", checkout, "--model-url", repairing, "--max-steps", 1, "-o", "json")

    assert ended.code == 4
    assert json.loads(ended.out)["stop_reason"] == "step_limit"


def test_why_a_run_stopped_is_said_once_with_what_to_do(mimo: Mimo, checkout: Path, repairing: str) -> None:
    ended = mimo("run", "x", "--repo", checkout, "--model-url", repairing, "--max-steps", 1)

    said = "Stopped: the limit of 1 steps is reached; raise --max-steps to let it go on longer"
    assert said in " ".join(ended.err.split())


def test_best_of_several_attempts_is_the_result(mimo: Mimo, checkout: Path, repairing: str) -> None:
    ended = mimo("run", "x", "--repo", checkout, "--model-url", repairing, "--attempts", 2, "-o", "json")

    attempts = json.loads(ended.out)["attempts"]
    assert [attempt["selected"] for attempt in attempts] == [True, False]


def test_uncommitted_changes_are_refused_with_the_ways_out(mimo: Mimo, checkout: Path, repairing: str) -> None:
    (checkout / "calc.py").write_text("def add(a, b):\n    return b - a\n")
    ended = mimo("run", "add() subtracts", "--repo", checkout, "--model-url", repairing)

    assert ended.code == 2
    assert "uncommitted changes (calc.py)" in ended.err
    assert "--allow-dirty" in ended.err


def test_allow_dirty_starts_from_the_commit_and_says_so(mimo: Mimo, checkout: Path, repairing: str) -> None:
    (checkout / "calc.py").write_text("broken\n")
    ended = mimo("run", "add() subtracts", "--repo", checkout, "--model-url", repairing, "--allow-dirty")

    assert ended.code == 0, ended.err
    assert "-    return a - b\n" in ended.out
    assert "Left out" in ended.err


def test_uncommitted_starts_from_the_files_as_they_are(mimo: Mimo, checkout: Path, repairing: str) -> None:
    (checkout / "calc.py").write_text("# mine\ndef add(a, b):\n    return a - b\n")
    ended = mimo("run", "x", "--repo", checkout, "--model-url", repairing, "--uncommitted", "--apply")

    assert ended.code == 0, ended.err
    assert (checkout / "calc.py").read_text() == "# mine\ndef add(a, b):\n    return a + b\n"


def test_patch_that_no_longer_fits_is_printed_and_changes_nothing(mimo: Mimo, checkout: Path, repairing: str) -> None:
    (checkout / "calc.py").write_text("def add(a, b):\n    return b - a\n")
    ended = mimo("run", "x", "--repo", checkout, "--model-url", repairing, "--allow-dirty", "--apply")

    assert ended.code == 1
    assert "does not fit" in ended.err
    assert "+    return a + b" in ended.out
    assert (checkout / "calc.py").read_text() == "def add(a, b):\n    return b - a\n"


def test_bare_repository_works_but_is_not_changed(mimo: Mimo, checkout: Path, tmp_path: Path, repairing: str) -> None:
    bare = tmp_path / "bare.git"
    git(tmp_path, "clone", "-q", "--bare", str(checkout), str(bare))

    printed = mimo("run", "x", "--repo", bare, "--model-url", repairing)
    applied = mimo("run", "x", "--repo", bare, "--model-url", repairing, "--apply")

    assert (printed.code, applied.code) == (0, 2), printed.err
    assert "no work tree" in applied.err


def test_submodules_are_refused(mimo: Mimo, checkout: Path) -> None:
    git(checkout, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(checkout), "part")
    commit(checkout)
    ended = mimo("run", "x", "--repo", checkout, "--model-url", "http://127.0.0.1:9/v1")

    assert ended.code == 2
    assert "submodules (part)" in ended.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--repo", "/nowhere/at/all"], "/nowhere/at/all is not a directory"),
        (["x", "--repo", "/"], "is not a git repository"),
        (["x", "--commit", "nope"], "has no commit 'nope'"),
        ([" "], "the problem is empty"),
        (["x" * 100_001], "the problem: String should have at most 100000 characters"),
        (["x", "--sandbox", "chroot"], "use one of local, docker"),
        (["x", "--max-steps", "0"], "--max-steps: Input should be greater than 0"),
        (["x", "--max-steps", "-3"], "--max-steps"),
        (["x", "--timeout", "0"], "--timeout: Input should be greater than 0"),
        (["x", "--max-tokens", "-1"], "--max-tokens"),
        (["x", "--temperature", "5"], "--temperature"),
        (["x", "--attempts", "0"], "--attempts"),
        (["x", "--check", ""], "--check"),
        (["x", "--model-url", "localhost:9001"], "--model-url"),
        (["x", "--max-steps", "many"], "--max-steps"),
        (["x", "--nonsense"], "--nonsense"),
    ],
)
def test_bad_input_is_a_usage_error(mimo: Mimo, checkout: Path, arguments: list[str], message: str) -> None:
    ended = mimo("run", "--model-url", "http://127.0.0.1:9/v1", "--repo", checkout, *arguments)

    assert ended.code == 2
    assert message in ended.err
    assert ended.out == ""


def test_ten_megabytes_on_standard_input_are_refused(
    mimo: Mimo, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "problem").write_text("x" * 10_000_000)
    with (tmp_path / "problem").open() as problem:
        monkeypatch.setattr("sys.stdin", problem)
        ended = mimo("run", "-", "--repo", checkout, "--model-url", "http://127.0.0.1:9/v1")

    assert ended.code == 2
    assert "at most 100000 characters" in ended.err
    assert len(ended.err) < 1000


def test_problem_is_read_from_standard_input(
    mimo: Mimo, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "problem").write_text("add() subtracts, größer\n")
    endpoint = ScriptedEndpoint(REPAIR)
    with (tmp_path / "problem").open(encoding="utf-8") as problem, endpoint.running() as url:
        monkeypatch.setattr("sys.stdin", problem)
        ended = mimo("run", "--repo", checkout, "--model-url", url)

    assert ended.code == 0, ended.err
    assert "add() subtracts, größer" in str(endpoint.requests[0]["messages"][1]["content"])


@pytest.mark.parametrize(
    "fault",
    [Status(401), Status(404), Garbage("<html>"), Garbage("{}", "application/json"), Cut(call("finish"))],
    ids=["wrong key", "unknown model", "not json", "no stream", "cut"],
)
def test_endpoint_that_fails_for_good_ends_the_run(
    mimo: Mimo, checkout: Path, monkeypatch: pytest.MonkeyPatch, fault: Status | Garbage | Cut
) -> None:
    monkeypatch.setattr("agent.cli.run._MODEL_RETRIES", 0)
    endpoint = ScriptedEndpoint(REPAIR, faults=[fault] * 3)
    with endpoint.running() as url:
        ended = mimo("run", "x", "--repo", checkout, "--model-url", url, "-o", "json")

    task = json.loads(ended.out)
    assert ended.code == 75
    assert (task["status"], task["stop_reason"], task["verdict"]["kind"]) == ("failed", "model_error", "no_change")
    assert task["error"]
    assert "--model-url" in ended.err


def test_endpoint_that_is_down_ends_the_run(mimo: Mimo, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.cli.run._MODEL_RETRIES", 0)
    ended = mimo("run", "x", "--repo", checkout, "--model-url", "http://127.0.0.1:9/v1", "-o", "json")

    assert ended.code == 75
    assert json.loads(ended.out)["stop_reason"] == "model_error"
    assert "cannot be reached" in ended.err


def test_endpoint_that_is_too_slow_ends_the_run_at_its_time(mimo: Mimo, checkout: Path) -> None:
    with ScriptedEndpoint(REPAIR, faults=[Stalled()]).running() as url:
        ended = mimo("run", "x", "--repo", checkout, "--model-url", url, "--timeout", 1, "-o", "json")

    assert ended.code == 4
    assert json.loads(ended.out)["stop_reason"] == "wall_clock"


def test_an_endpoint_that_does_not_begin_to_answer_is_asked_again(mimo: Mimo, checkout: Path) -> None:
    with ScriptedEndpoint(REPAIR, faults=[Stalled()]).running() as url:
        ended = mimo("run", "x", "--repo", checkout, "--model-url", url, "--check", CHECK, "--first-answer", 1)

    assert ended.code == 0, ended.err


def test_cost_limit_ends_the_run(mimo: Mimo, checkout: Path, repairing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIMO_MODEL_PRICES", '{"prompt": 10000, "cached": 0, "completion": 0}')
    ended = mimo("run", "x", "--repo", checkout, "--model-url", repairing, "--max-cost", 1.5, "-o", "json")

    task = json.loads(ended.out)
    assert (ended.code, task["stop_reason"], task["usage"]["prompt_tokens"]) == (4, "cost_budget", 200)


def test_ctrl_c_ends_the_run_with_what_there_is(checkout: Path, tmp_path: Path) -> None:
    script = turns(
        call("str_replace", path="calc.py", old_str="a - b", new_str="a + b"),
        call("bash", command="sleep 600"),
    )
    with answering(script) as url:
        process = start("run", "x", "--repo", checkout, "--model-url", url, "-o", "stream-json", home=tmp_path / "home")
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(json.loads(line))
            if seen[-1]["type"] == "tool.intent" and seen[-1]["body"]["step"] == 2:
                process.send_signal(signal.SIGINT)
        process.communicate()

    task = seen[-1]["task"]
    assert process.returncode == 130
    assert (task["status"], task["stop_reason"]) == ("cancelled", "cancelled")
    assert "+    return a + b" in task["patch"]


def test_silence_is_broken_by_a_sign_of_life_on_standard_error_alone(checkout: Path, tmp_path: Path) -> None:
    with ScriptedEndpoint(REPAIR, [Stalled()]).running() as url:
        given = ("run", "x", "--repo", checkout, "--model-url", url, "--heartbeat", 1)
        process = start(*given, home=tmp_path / "home")
        assert process.stderr is not None
        signs = (line for line in process.stderr if "… step 1 · asking the model (" in line)
        assert [bool(next(signs, "")) for _ in range(2)] == [True, True]
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()

    assert process.returncode == 130
    assert out == ""


def test_log_of_a_run_stays_and_its_copy_goes(mimo: Mimo, checkout: Path, tmp_path: Path, repairing: str) -> None:
    mimo("run", "x", "--repo", checkout, "--model-url", repairing)

    (directory,) = (tmp_path / "home" / "runs").iterdir()
    assert {path.name for path in directory.iterdir()} >= {"store.db"}
    assert not (directory / "repositories").exists()
