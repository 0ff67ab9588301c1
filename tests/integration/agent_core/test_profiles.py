"""What the assistant can do beside the native tools, and what one tool alone can."""

import pytest

from agent.profiles.assistant import assistant
from agent.profiles.mini import mini
from agent.profiles.native import native
from agent.testing import ScriptedModel, call, in_order
from agent.tools.base import function_schema
from agent.types import AssistantMessage, Limits, StopReason
from tests.integration.agent_core.conftest import Desk

pytestmark = pytest.mark.anyio

FINISH = call("finish", summary="done")
FIX = call("str_replace", path="calc.py", old_str="a - b", new_str="a + b")


async def observed(desk: Desk, *answers: AssistantMessage) -> list[str]:
    """What the assistant reads from each call; its run ends without a review."""
    script = in_order(*answers, FIX, FINISH)
    assert await desk.work(script, agent=assistant(), review=False) is StopReason.FINISHED
    return desk.observations()[: len(answers)]


async def test_files_are_read_written_found_and_searched(desk: Desk) -> None:
    texts = await observed(
        desk,
        call("read", path="calc.py", offset=2),
        call("write", path="lib/new name.py", content="x = 1\n"),
        call("glob", pattern="**/*.py"),
        call("grep", pattern="add\\(", files="tests/**"),
        call("grep", pattern="$(touch /workspace/hacked)"),
        call("glob", pattern="$(touch /workspace/hacked)"),
        call("bash", command="ls hacked"),
        call("read", path="missing"),
        call("todo", items=["[x] look", "[ ] edit"]),
    )
    assert texts[:2] == ["2:     return a - b\n[end of file]", "[wrote 1 lines]"]
    assert set(texts[2].splitlines()[:-1]) == {"calc.py", "lib/new name.py", "tests/test_calc.py"}
    assert texts[3].splitlines()[1] == "tests/test_calc.py:5:    assert add(1, 2) == 3"
    assert texts[4:6] == ["[nothing found]", "[nothing found]"]
    assert "No such file" in texts[6]
    assert texts[7:] == ["[error] missing: no such file", "[2 items, 1 open]"]


async def test_a_long_file_is_read_in_parts(desk: Desk) -> None:
    many = "".join(f"line {i}\n" for i in range(1, 1001))
    _, first, last = await observed(
        desk,
        call("write", path="long.txt", content=many),
        call("read", path="long.txt", limit=2),
        call("read", path="long.txt", offset=1000),
    )
    assert first == "1: line 1\n2: line 2\n[lines 1-2 of 1000; go on with offset 3]"
    assert last == "1000: line 1000\n[end of file]"


async def test_an_edit_with_other_white_space_is_fitted_where_there_is_one_such_place(desk: Desk) -> None:
    fitted, shown = await observed(
        desk,
        call("str_replace", path="calc.py", old_str="return  a - b", new_str="return b - a"),
        call("read", path="calc.py"),
    )
    assert fitted == "[edited line 2]\n1: def add(a, b):\n2:     return b - a\n3: "
    assert "2:     return b - a" in shown


async def test_an_edit_that_breaks_python_is_refused_and_one_that_mends_it_is_not(desk: Desk) -> None:
    refused, _, mended = await observed(
        desk,
        call("str_replace", path="calc.py", old_str="a - b", new_str="(a - b"),
        call("write", path="broken.py", content="def f(:\n    pass\n"),
        call("str_replace", path="broken.py", old_str="f(:", new_str="f():"),
    )
    assert refused == "[error] nothing was edited: the file would no longer be Python: line 2: '(' was never closed"
    assert mended.startswith("[edited line 1]")


async def test_output_that_does_not_fit_is_kept_in_a_file(desk: Desk) -> None:
    cut, size = await observed(
        desk, call("bash", command="seq 1 9000"), call("bash", command="wc -l < /tmp/outputs/1-0.txt")
    )
    assert cut.endswith("\n[exit code: 0]\n[all of it: /tmp/outputs/1-0.txt]")
    assert size == "9000\n[exit code: 0]"


async def test_a_job_goes_on_in_the_background_until_it_ends_or_is_stopped(desk: Desk) -> None:
    started, ended, _, running, stopped, unknown = await observed(
        desk,
        call("bash", command="echo begun; sleep 0.2; exit 3", background=True),
        call("job", id="1-0", action="wait"),
        call("bash", command="echo endless; sleep 600", background=True),
        call("job", id="3-0"),
        call("job", id="3-0", action="stop"),
        call("job", id="9-9"),
    )
    assert started == "[job 1-0 started; its output is in /tmp/jobs/1-0.log]"
    assert ended == "begun\n[the job ended with exit code 3]\n[exit code: 0]"
    assert "[the job runs for " in running
    assert "[the job was stopped]" in stopped
    assert unknown.startswith("no such job")


async def test_the_first_finish_shows_the_patch_and_the_checks_and_the_second_ends_the_run(desk: Desk) -> None:
    model = ScriptedModel(in_order(FIX, FINISH, FINISH))
    checks = ({"command": "python -B -c 'import calc; print(calc.add(1, 2))'"},)
    assert await desk.work(model, agent=assistant(), checks=checks) is StopReason.FINISHED
    shown = desk.observations()[1]
    assert "+    return a + b" in shown
    assert "3\n[exit code: 0]" in shown
    assert desk.observations()[2] == "[finished]"


async def test_a_review_can_be_asked_of_any_profile(desk: Desk) -> None:
    assert await desk.work(in_order(FIX, FINISH, FINISH), review=True) is StopReason.FINISHED
    assert desk.observations()[1].startswith("Not finished yet.")


async def test_a_helper_answers_with_a_view_of_its_own_and_its_tokens_count(desk: Desk) -> None:
    model = ScriptedModel(
        in_order(
            call("explore", question="Where is add?"),
            call("grep", pattern="def add"),
            call("finish", summary="In calc.py, line 1."),
            FIX,
            FINISH,
        )
    )
    assert await desk.work(model, agent=assistant(), review=False, limits=Limits(max_tokens=550)) is StopReason.FINISHED
    assert desk.observations()[0] == "In calc.py, line 1."
    assert [message["content"] for message in model.requests[1][0][1:]] == ["Where is add?"]
    completed = next(event.body for event in desk.log.events if event.type == "tool.completed")
    assert completed["usage"]["prompt_tokens"] == 200
    assert len(model.requests[3][0]) == 4


async def test_the_mini_agent_ends_its_run_with_a_command(desk: Desk) -> None:
    fix = call("bash", command="sed -i 's/a - b/a + b/' calc.py")
    done = call("bash", command="echo TASK_IS_DONE")
    assert await desk.work(in_order(fix, done), agent=mini()) is StopReason.FINISHED
    assert "+    return a + b" in await desk.patch()


async def test_the_schemas_of_the_native_tools_are_those_the_model_was_trained_with() -> None:
    assert [function_schema(tool)["function"]["parameters"]["properties"] for tool in native().tools] == [
        {"command": {"type": "string", "description": "The command line."}},
        {
            "path": {"type": "string", "description": "File, absolute or below /workspace."},
            "old_str": {"type": "string", "description": "Text to replace; must occur exactly once."},
            "new_str": {"type": "string", "description": "Text to put in its place."},
        },
        {"summary": {"type": "string", "description": "What was changed and why."}},
    ]
