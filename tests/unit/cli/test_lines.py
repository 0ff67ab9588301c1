"""What people read: one line per call, plain verdicts, coloured diffs, and nothing that steers their terminal."""

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from agent.api.schemas import EventView, TaskView, show
from agent.cli.exits import exit_code
from agent.cli.failure import ExitCode
from agent.cli.progress import Progress, describe
from agent.cli.report import details, report
from agent.cli.terminal import Terminal, one_line, printable
from agent.mining import Mining, Remark
from agent.store.base import RunRecord, TaskRecord
from agent.types import Evidence, Status, StopReason, TaskRequest, ToolCall, Usage, Verdict, VerdictKind, WaitingOn

REFLOG = Remark(step=3, place="reflog", call="git reflog; git log --all")
OTHER = Remark(step=9, place="history", call="git log --all")

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _terminal(*, people: bool = False, no_color: bool = False) -> tuple[Terminal, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    settings: dict[str, Any] = {"force_terminal": people, "no_color": no_color, "width": 100}
    settings["color_system"] = "standard" if people else None
    return Terminal(Console(file=out, **settings), Console(file=err, **settings)), out, err


def _task(
    status: Status = Status.SUCCEEDED,
    stop_reason: StopReason | None = StopReason.FINISHED,
    verdict: VerdictKind | None = VerdictKind.VERIFIED,
    evidence: tuple[Evidence, ...] = (),
    error: str | None = None,
) -> TaskView:
    run = RunRecord(
        run_id="run_1",
        attempt=1,
        status=status,
        generation=1,
        stop_reason=stop_reason,
        verdict=None if verdict is None else Verdict(kind=verdict, evidence=evidence),
        steps=1,
        usage=Usage(prompt_tokens=1234, cached_tokens=1000, completion_tokens=56),
        error=error,
    )
    request = TaskRequest(repository="/repo", problem_statement="add() subtracts")
    return show(
        TaskRecord(
            id="task_1",
            request=request,
            status=status,
            runs=(run,),
            last_seq=9,
            created_at=NOW,
            updated_at=NOW,
            started_at=NOW,
            finished_at=NOW.replace(second=12),
        )
    )


def _evidence(**values: Any) -> Evidence:
    given = {"command": "make test", "exit_code": 0, "passed": True, "output": "", "tree": "t", "duration_s": 0.5}
    return Evidence(**{**given, **values})


def _events(*bodies: tuple[str, dict[str, Any]]) -> list[EventView]:
    return [EventView(seq=i, type=kind, run_id="run_1", at=NOW, body=body) for i, (kind, body) in enumerate(bodies, 1)]


def _call(name: str, arguments: str) -> dict[str, Any]:
    call = {"id": "c1", "name": name, "arguments": arguments}
    return {"step": 1, "intent_id": "1-0", "call": call}


def _observed(text: str, *, error: bool = False) -> dict[str, Any]:
    observation = {"call_id": "c1", "text": text, "error": error, "duration_s": 1.25}
    return {"step": 1, "intent_id": "1-0", "observation": observation}


@pytest.mark.parametrize(
    ("intent", "observed", "line"),
    [
        (_call("bash", '{"command": "ls"}'), _observed("a\n[exit code: 0]"), "1  ✓ $ ls  exit 0  1.2 s"),
        (
            _call("bash", '{"command": "make\\nmake test"}'),
            _observed("[exit code: 2]", error=True),
            "1  ✗ $ make…  exit 2  1.2 s",
        ),
        (
            _call("str_replace", '{"path": "a.py", "old_str": "x", "new_str": "y"}'),
            _observed("[edited line 3]\n3: y"),
            "1  ✓ edit a.py  edited line 3  1.2 s",
        ),
        (
            _call("str_replace", '{"path": "a.py", "old_str": "x", "new_str": "y"}'),
            _observed("[error] old_str was not found; nearest lines:\n1: z", error=True),
            "1  ✗ edit a.py  old_str was not found  1.2 s",
        ),
        (_call("finish", '{"summary": "Done."}'), _observed("[finished]"), "1  ✓ finish: Done.  finished  1.2 s"),
        (
            _call("bash", '{"command": "sleep 99"}'),
            _observed("x\n[timed out after 60 s; every process of the command was ended.]", error=True),
            "1  ✗ $ sleep 99  timed out after 60 s  1.2 s",
        ),
    ],
)
def test_call_is_one_line(intent: dict[str, Any], observed: dict[str, Any], line: str) -> None:
    terminal, _, err = _terminal()
    with Progress(terminal) as progress:
        for event in _events(("step.started", {"step": 1}), ("tool.intent", intent), ("tool.completed", observed)):
            progress.event(event)

    assert err.getvalue().count("\n") == 1
    assert err.getvalue().split() == line.split()


def test_event_of_an_unknown_type_is_passed_over() -> None:
    terminal, _, err = _terminal()
    with Progress(terminal) as progress:
        progress.event(_events(("moon.landed", {}))[0])

    assert err.getvalue() == ""


def test_call_with_broken_arguments_still_has_a_name() -> None:
    assert describe(ToolCall(id="1", name="bash", arguments="{")) == "bash"
    assert describe(ToolCall(id="1", name="bash", arguments='{"command": 7}')) == "bash"


def test_escape_sequences_of_the_model_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b]0;evil\x07\tb\n\u202e") == "a\\x1b]0;evil\\x07\tb\n\\u202e"
    terminal, out, _ = _terminal(people=True)
    terminal.patch("+\x1b[2J")
    assert "\x1b[2J" not in out.getvalue()


def test_what_joins_letters_is_kept_where_it_hides_nothing() -> None:
    family, persian = "\U0001f469\u200d\U0001f467", "\u0645\u06cc\u200c\u062e"
    assert printable(f"{family} {persian}") == f"{family} {persian}"
    assert printable("rm\u200d -r\u200c\u200df \u8a08\u200c\u200d\u8a08 \u200d") == (
        "rm\\u200d -r\\u200c\\u200df \u8a08\\u200c\\u200d\u8a08 \\u200d"
    )


def test_long_lines_are_cut_with_a_mark() -> None:
    assert one_line("abcdef", 4) == "abc…"
    assert one_line("ab\ncd", 10) == "ab…"


def test_patch_goes_into_a_pipe_byte_for_byte() -> None:
    terminal, out, _ = _terminal()
    patch = "diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n-\x1b[31m\r\n+[bold]y\n"
    terminal.patch(patch)

    assert out.getvalue() == patch


def test_people_are_shown_no_bytes_of_binary_files_and_all_else() -> None:
    terminal, out, _ = _terminal(people=True)
    binary = "diff --git a/b b/b\nGIT binary patch\ndelta 13\nUcmZn&XbV`N\n\nliteral 0\nHcmV?d00001\n\n"
    terminal.patch(f"{binary}diff --git a/a b/a\n+GIT binary patch\n+delta 13\n+x\n")
    assert "Ucm" not in out.getvalue()
    assert "Hcm" not in out.getvalue()
    assert out.getvalue().count("delta 13") == 1
    assert out.getvalue().count("(a binary file)") == 1


def test_patch_is_coloured_for_people_unless_they_say_no() -> None:
    colored, out, _ = _terminal(people=True)
    colored.patch("-a\n+b\n")
    plain, bare, _ = _terminal(people=True, no_color=True)
    plain.patch("-a\n+b\n")

    assert "\x1b[32m+b" in out.getvalue()
    assert "\x1b[3" not in bare.getvalue()


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (_task(evidence=(_evidence(),)), ["Verified", "✓ make test", "exit 0", "12.0 s", "1,234", "1,000 cached"]),
        (
            _task(
                verdict=VerdictKind.REGRESSED,
                evidence=(_evidence(exit_code=1, passed=False, passed_before=True, output="FAILED\n\n1 failed"),),
            ),
            ["Regressed", "✗ make test", "passed before the patch", "1 failed"],
        ),
        (_task(verdict=VerdictKind.UNVERIFIED), ["no check was given"]),
        (_task(verdict=VerdictKind.NO_CHANGE), ["No change"]),
        (
            _task(Status.FAILED, StopReason.MODEL_ERROR, VerdictKind.NO_CHANGE, error="refused"),
            ["--model-url", "refused"],
        ),
        (_task(Status.FAILED, None, None, error="no space left"), ["No verdict", "no space left"]),
        (_task(evidence=(_evidence(exit_code=None, passed=False),)), ["ended by force"]),
    ],
)
def test_result_is_said_in_plain_words(task: TaskView, words: list[str]) -> None:
    terminal, out, err = _terminal()
    report(terminal, task)

    assert [word for word in words if word not in err.getvalue()] == []
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("task", "require_verified", "code"),
    [
        (_task(), True, ExitCode.DONE),
        (_task(verdict=VerdictKind.PARTLY_VERIFIED), False, ExitCode.DONE),
        (_task(verdict=VerdictKind.PARTLY_VERIFIED), True, ExitCode.UNVERIFIED),
        (_task(verdict=VerdictKind.UNVERIFIED), True, ExitCode.UNVERIFIED),
        (_task(verdict=VerdictKind.NO_CHANGE), False, ExitCode.FAILED),
        (_task(verdict=VerdictKind.REGRESSED), True, ExitCode.FAILED),
        (_task(Status.FAILED, StopReason.STUCK), False, ExitCode.FAILED),
        (_task(Status.FAILED, None, None), False, ExitCode.FAILED),
        (_task(Status.FAILED, StopReason.STEP_LIMIT), False, ExitCode.LIMIT),
        (_task(Status.FAILED, StopReason.TOKEN_BUDGET), False, ExitCode.LIMIT),
        (_task(Status.FAILED, StopReason.COST_BUDGET), False, ExitCode.LIMIT),
        (_task(Status.FAILED, StopReason.WALL_CLOCK), False, ExitCode.LIMIT),
        (_task(Status.EXPIRED, None, None), False, ExitCode.LIMIT),
        (_task(Status.WAITING, None, None), False, ExitCode.NEEDS_INPUT),
        (_task(Status.PAUSED, None, None), False, ExitCode.NEEDS_INPUT),
        (_task(Status.FAILED, StopReason.MODEL_ERROR), False, ExitCode.RETRYABLE),
        (_task(Status.FAILED, StopReason.SANDBOX_LOST), False, ExitCode.RETRYABLE),
        (_task(Status.CANCELLED, StopReason.CANCELLED), False, ExitCode.INTERRUPTED),
        (_task(Status.CANCELLED, None, None), False, ExitCode.INTERRUPTED),
    ],
)
def test_exit_code_tells_how_it_ended(task: TaskView, require_verified: bool, code: ExitCode) -> None:
    assert exit_code(task, require_verified=require_verified) is code


@pytest.mark.parametrize("waiting_on", list(WaitingOn))
def test_details_say_what_a_task_waits_for(waiting_on: WaitingOn) -> None:
    terminal, out, _ = _terminal()
    details(terminal, _task(Status.WAITING, None, None).model_copy(update={"waiting_on": waiting_on}))
    assert "waits for" in out.getvalue()


@pytest.mark.parametrize(
    ("looked", "line"),
    [
        (Mining(), "nothing looked for the answer outside of the files"),
        (
            Mining(remarks=(REFLOG,)),
            "1 call looked where the answer may stand (reflog); first in step 3: git reflog; git log --all",
        ),
        (
            Mining(remarks=(REFLOG, Remark(step=3, place="history", call=REFLOG.call), OTHER)),
            "2 calls looked where the answer may stand (reflog, history); first in step 3: git reflog; git log --all",
        ),
    ],
)
def test_what_a_benchmarks_task_looked_at_is_a_remark_and_no_verdict(looked: Mining, line: str) -> None:
    terminal, out, _ = _terminal()
    details(terminal, _task().model_copy(update={"mining": looked}))
    assert f"mining      {line}\n" in out.getvalue()
    assert "Verified" in out.getvalue()
