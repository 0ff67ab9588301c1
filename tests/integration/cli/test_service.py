"""``mimo serve`` in a process of its own, and ``mimo task`` against it."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from agent.testing import ScriptedEndpoint, Stalled, call
from agent.types import AssistantMessage, Message

from .conftest import CHECK, REPAIR, Mimo, commit, git, start


def _script(messages: Sequence[Message]) -> AssistantMessage:
    """Repairs; a task that asks for it hangs in its first command, or looks around until it is told to begin."""
    problem, said = str(messages[1]["content"]), [str(message["content"]) for message in messages]
    if "hang" in problem:
        return call("bash", command="sleep 600")
    if "look around" in problem:
        told = said.index("begin") + 1 if "begin" in said else 0
        return REPAIR(messages[told:]) if told else call("bash", command="sleep 0.1")
    return REPAIR(messages)


@dataclass(frozen=True, slots=True)
class Service:
    url: str
    process: "subprocess.Popen[str]"
    logs: Path

    def children(self) -> set[int]:
        return set(map(int, Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()))


@contextmanager
def _serving(home: Path, *arguments: str, faults: Sequence[Stalled] = ()) -> Iterator[Service]:
    with ScriptedEndpoint(_script, faults).running() as model_url:
        process = start("serve", "--port", 0, "--model-url", model_url, *arguments, home=home)
        assert process.stderr is not None
        try:
            ready = next((line for line in process.stderr if "ready" in line), "")
            found = re.search(r"http://\S+", ready)
            assert found is not None, ready
            yield Service(found[0], process, home / "logs")
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with _serving(tmp_path_factory.mktemp("service"), "--workers", "2") as running:
        yield running


@pytest.fixture
def task(mimo: Mimo, service: Service, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """``mimo task`` against the service."""
    monkeypatch.setenv("MIMO_SERVER_URL", service.url)
    return lambda *arguments: mimo("task", *arguments)


def _wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    """Runs, and is not just waiting to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_submitted_task_is_repaired_watched_and_shown(task: Mimo, checkout: Path) -> None:
    submitted = task("submit", "add() subtracts", "--repo", checkout, "--check", CHECK, "--label", "team=web")
    task_id = submitted.out.strip()
    watched = task("watch", task_id)
    shown = task("show", task_id)
    as_json = json.loads(task("show", task_id, "-o", "json").out)
    listed = task("list")
    diff = task("diff", task_id)

    assert watched.code == 0, watched.err
    assert "edited line 2" in watched.err
    assert "Verified" in watched.err
    assert "+    return a + b\n" in watched.out
    assert "Verified" in shown.out
    assert (as_json["status"], as_json["verdict"]["kind"], as_json["labels"]) == (
        "succeeded",
        "verified",
        {"team": "web"},
    )
    assert as_json["patch"] == watched.out == diff.out
    assert task_id in listed.out


def test_tests_of_the_commit_are_the_default_check(task: Mimo, checkout: Path) -> None:
    (checkout / "test_calc.py").write_text("def test_nothing():\n    pass\n")
    commit(checkout)
    task_id = task("submit", "hang", "--repo", checkout).out.strip()
    checks = json.loads(task("cancel", task_id, "-o", "json").out)["checks"]

    assert [check["command"] for check in checks] == ["python -m pytest -q"]


def test_submit_can_stay_and_exit_as_the_task_does(task: Mimo, checkout: Path) -> None:
    ended = task("submit", "x", "--repo", checkout, "--check", "false", "--watch", "--require-verified", "-o", "json")

    assert ended.code == 3
    shown = json.loads(ended.out)
    assert shown["verdict"]["kind"] == "unverified"


def test_watching_again_from_the_middle_repeats_nothing(task: Mimo, checkout: Path) -> None:
    task_id = task("submit", "x", "--repo", checkout).out.strip()
    whole = task("watch", task_id, "-o", "stream-json").out.splitlines()
    rest = task("watch", task_id, "-o", "stream-json", "--after", 5).out.splitlines()

    assert rest == whole[5:]
    assert json.loads(rest[-1])["type"] == "result"
    last = json.loads(whole[-2])["seq"]
    assert len(task("watch", task_id, "-o", "stream-json", "--after", last).out.splitlines()) == 1


def test_what_the_model_is_writing_is_printed_where_it_is_asked_for(mimo: Mimo, checkout: Path, tmp_path: Path) -> None:
    thinking = Stalled(AssistantMessage(content="", reasoning_content="it subtracts"))
    with _serving(tmp_path / "service", faults=[thinking]) as service:
        at = ("--server", service.url)
        task_id = mimo("task", "submit", "add() subtracts", "--repo", checkout, *at).out.strip()
        watching = start("task", "watch", task_id, "-o", "stream-json", "--deltas", *at, home=tmp_path / "home")
        assert watching.stdout is not None
        lines = map(json.loads, watching.stdout)
        piece = next((line for line in lines if line.get("kind") == "reasoning"), None)
        mimo("task", "cancel", task_id, *at)
        rest = [line["type"] for line in lines]
        watching.communicate(timeout=60)

    assert piece is not None
    assert (piece["type"], piece["step"], piece["text"]) == ("item.delta", 1, "it subtracts")
    assert rest[-2:] == ["task.finished", "result"]


def test_pieces_go_with_a_stream_of_events_alone(task: Mimo) -> None:
    assert task("watch", "task_1", "--deltas", "-o", "json").code == 2


@pytest.fixture
def repaired(task: Mimo, checkout: Path) -> str:
    """Id of a task that ended; the checkout is as the task found it."""
    (checkout / "calc.py").write_text("# one\n# two\n# three\ndef add(a, b):\n    return a - b\n")
    commit(checkout)
    ended = task("submit", "add() subtracts", "--repo", checkout, "--check", CHECK, "--watch", "-o", "json")
    return str(json.loads(ended.out)["id"])


def test_a_patch_is_applied_once(task: Mimo, checkout: Path, repaired: str) -> None:
    applied = task("apply", repaired, "--repo", checkout)
    again = task("apply", repaired, "--repo", checkout)

    assert (applied.code, again.code) == (0, 0), (applied.err, again.err)
    assert "  calc.py\n" in applied.err
    assert (checkout / "calc.py").read_text().endswith("a + b\n")
    assert "has all of it already" in again.err
    assert git(checkout, "status", "--porcelain") == " M calc.py\n"


def test_a_patch_is_merged_with_later_commits_and_keeps_off_other_changes(
    task: Mimo, checkout: Path, repaired: str
) -> None:
    (checkout / "calc.py").write_text("# one\n# 2\n# three\ndef add(a, b):\n    return a - b\n")
    commit(checkout)
    (checkout / "notes").write_text("mine\n")
    applied = task("apply", repaired, "--repo", checkout)

    assert applied.code == 0, applied.err
    assert "merged with what was committed since" in applied.err
    assert (checkout / "calc.py").read_text() == "# one\n# 2\n# three\ndef add(a, b):\n    return a + b\n"
    assert (checkout / "notes").read_text() == "mine\n"


def test_a_patch_never_goes_over_what_is_not_committed(task: Mimo, checkout: Path, repaired: str) -> None:
    mine = "# mine\n" + (checkout / "calc.py").read_text()
    (checkout / "calc.py").write_text(mine)
    refused = task("apply", repaired, "--repo", checkout)

    assert refused.code == 1
    assert "not committed here: calc.py; nothing was applied" in refused.err
    assert (checkout / "calc.py").read_text() == mine


def test_a_patch_that_contradicts_later_commits_changes_nothing(task: Mimo, checkout: Path, repaired: str) -> None:
    theirs = "def add(a, b):\n    return sum((a, b))\n"
    (checkout / "calc.py").write_text(theirs)
    commit(checkout)
    refused = task("apply", repaired, "--repo", checkout)

    assert refused.code == 1
    assert "changed the same lines" in refused.err
    assert (checkout / "calc.py").read_text() == theirs
    assert git(checkout, "status", "--porcelain") == ""


def test_a_patch_needs_a_checkout(task: Mimo, repaired: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    refused = task("apply", repaired, "--repo", tmp_path / "elsewhere")

    assert refused.code == 1
    assert "takes no patch" in refused.err


def test_attempts_are_listed_with_what_became_of_them(task: Mimo, checkout: Path) -> None:
    asked = ("--repo", checkout, "--check", "false", "--attempts", 2, "--watch", "-o", "json")
    task_id = json.loads(task("submit", "add() subtracts", *asked).out)["id"]
    listed = task("attempts", task_id).out.splitlines()
    as_json = json.loads(task("attempts", task_id, "-o", "json").out)

    assert listed[0].split() == ["attempt", "status", "verdict", "files", "lines", "steps", "chosen"]
    assert [line.split()[:6] for line in listed[1:]] == [
        [number, "succeeded", "unverified", "1", "+1", "-1"] for number in ("1", "2")
    ]
    assert [line.rstrip().endswith("yes") for line in listed[1:]].count(True) == 1
    assert [(line["attempt"], line["num_files"], line["added"]) for line in as_json] == [(1, 1, 1), (2, 1, 1)]


def test_logs_tell_what_happened_so_far(task: Mimo, repaired: str) -> None:
    told = task("logs", repaired).out
    whole = task("logs", repaired, "--full").out
    as_json = [json.loads(line) for line in task("logs", repaired, "-o", "json").out.splitlines()]

    for line in (
        "> add() subtracts",
        "attempt 1 is worked on",
        "✓ $ cat calc.py",
        "+ a + b",
        "the task: succeeded, verified",
    ):
        assert line in told
    assert "Let me look." not in told
    assert "Let me look." in whole
    assert "# three" in whole
    assert [event["seq"] for event in as_json] == list(range(1, len(as_json) + 1))


def test_logs_are_followed_to_the_end(task: Mimo, service: Service, checkout: Path, tmp_path: Path) -> None:
    task_id = task("submit", "hang", "--repo", checkout).out.strip()
    following = start("task", "logs", task_id, "--follow", "--server", service.url, home=tmp_path / "home")
    assert following.stdout is not None
    assert any("attempt 1 is worked on" in line for line in following.stdout)
    task("cancel", task_id)
    rest = following.stdout.read()
    following.communicate(timeout=60)

    assert rest.splitlines()[-1].endswith("the task: cancelled, no change")
    assert following.returncode == 0


def test_running_task_is_cancelled(task: Mimo, checkout: Path) -> None:
    task_id = task("submit", "hang", "--repo", checkout).out.strip()
    _wait_until(lambda: json.loads(task("show", task_id, "-o", "json").out)["steps"] == 1)

    first, second = task("cancel", task_id), task("cancel", task_id)
    watched = task("watch", task_id, "-o", "json")

    assert (first.code, second.code, watched.code) == (0, 0, 130)
    assert json.loads(watched.out)["status"] == "cancelled"
    assert task_id in task("list", "--status", "cancelled").out
    assert task_id not in task("list", "--status", "succeeded").out


def test_a_task_is_paused_told_something_and_goes_on(task: Mimo, checkout: Path) -> None:
    task_id = task("submit", "look around", "--repo", checkout).out.strip()
    paused = task("pause", task_id)
    _wait_until(lambda: json.loads(task("show", task_id, "-o", "json").out)["status"] == "paused")
    said = task("message", task_id, "begin")
    resumed = task("resume", task_id)
    watched = task("watch", task_id, "-o", "json")
    steps = task("rewind", task_id).out.splitlines()

    assert steps[0].split(maxsplit=1) == ["0", "the beginning"]
    assert [line for line in steps if line.endswith("edit calc.py")]
    assert (paused.code, said.code, resumed.code) == (0, 0, 0), (paused.err, said.err, resumed.err)
    assert said.out.startswith("msg_")
    assert "+    return a + b" in json.loads(watched.out)["patch"]


def test_a_task_that_waits_says_for_what(task: Mimo, checkout: Path) -> None:
    task_id = task("submit", "add() subtracts", "--repo", checkout, "--approvals", "ask").out.strip()
    _wait_until(lambda: json.loads(task("show", task_id, "-o", "json").out)["status"] == "waiting")
    shown = task("show", task_id).out
    task("cancel", task_id)

    assert "a word about a call: mimo approvals list" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["message", "task_nope", "x"], "task_nope"),
        (["message", "task_nope", ""], "at least 1 character"),
        (["show", "task_nope"], "task_nope"),
        (["watch", "task_nope"], "task_nope"),
        (["diff", "../../livez"], "../../livez"),
        (["apply", "task_nope"], "task_nope"),
        (["logs", "task_nope"], "task_nope"),
        (["attempts", "task_nope"], "task_nope"),
        (["cancel", "task_nope"], "task_nope"),
        (["list", "--status", "done"], "there is no status 'done'"),
        (["submit", "x", "--repo", "/"], "not a git repository"),
        (["submit", "x", "--repo", "/nowhere"], "/nowhere is not a directory"),
        (["submit", "x", "--max-steps", "0"], "--max-steps"),
        (["submit", "x", "--label", "web"], "NAME=VALUE"),
        (["submit", ""], "the problem is empty"),
        (["submit", "x" * 100_001], "at most 100000 characters"),
    ],
)
def test_refusal_is_said_in_plain_words(task: Mimo, arguments: list[str], message: str) -> None:
    ended = task(*arguments)

    assert ended.code == 2
    assert message in ended.err
    assert "Traceback" not in ended.err


def test_service_that_is_not_there_can_be_tried_again_later(mimo: Mimo) -> None:
    ended = mimo("task", "list", "--server", "http://127.0.0.1:9")

    assert ended.code == 75
    assert "no service answers at http://127.0.0.1:9" in ended.err
    assert "mimo serve" in ended.err


def test_port_that_is_taken_is_named(mimo: Mimo, service: Service) -> None:
    ended = mimo("serve", "--port", service.url.rpartition(":")[2], "--model-url", "http://127.0.0.1:9/v1")

    assert ended.code == 1
    assert "Address already in use" in ended.err
    assert "--port" in ended.err


def test_service_does_not_open_to_others_without_a_key(mimo: Mimo) -> None:
    ended = mimo("serve", "--host", "0.0.0.0", "--port", 0, "--model-url", "http://127.0.0.1:9/v1")

    assert ended.code == 2
    assert "MIMO_API_KEY" in ended.err


def test_local_service_answers_to_its_own_names_only(service: Service) -> None:
    with httpx.Client(trust_env=False) as http:
        foreign = http.get(f"{service.url}/v1/tasks", headers={"Host": "rebound.example"})
        local = http.get(f"{service.url}/v1/tasks", headers={"Host": "localhost:1"})

    assert (foreign.status_code, local.status_code) == (421, 200)


def test_killed_worker_is_replaced_and_its_run_goes_on(task: Mimo, service: Service, checkout: Path) -> None:
    before = service.children()
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    _wait_until(lambda: len(service.children() - {victim}) == 2)

    assert task("submit", "x", "--repo", checkout, "--watch").code == 0
    assert service.process.poll() is None


def test_one_ctrl_c_ends_everything(tmp_path: Path) -> None:
    with _serving(tmp_path) as service:
        (worker,) = service.children()
        service.process.send_signal(signal.SIGINT)
        service.process.wait(timeout=60)

    assert service.process.returncode == 0
    assert not _alive(worker)


def test_children_end_even_when_the_service_is_killed(tmp_path: Path) -> None:
    with _serving(tmp_path) as service:
        (worker,) = service.children()
        service.process.kill()
        _wait_until(lambda: not _alive(worker))
