"""Tasks that begin with somebody's uncommitted changes, and with what was said before."""

import pytest

from .conftest import Hosted, Service, git

pytestmark = pytest.mark.anyio


async def test_a_task_goes_on_from_changes_and_a_conversation(service: Service, hosted: Hosted) -> None:
    await service.add(hosted, forge="github")
    (hosted.checkout / "notes.txt").write_text("uncommitted\n")
    git(hosted.checkout, "add", "-A")
    changes = git(hosted.checkout, "diff", "--cached", "--binary")
    said = [
        {"role": "user", "content": "what is wrong here?"},
        {"role": "assistant", "content": "add() subtracts.", "reasoning_content": "a - b, hm"},
    ]
    task = await service.done(changes=changes, conversation=said)

    assert (task["status"], "notes.txt" in task["patch"], "+    return a + b" in task["patch"]) == (
        "succeeded",
        False,
        True,
    )
    assert [messages[1:3] for messages, _ in service.model.requests] == [said] * len(service.model.requests)
    pull = (await service.http.post(f"/v1/tasks/{task['id']}/pull_request", json={})).json()
    names = git(hosted.bare, "ls-tree", "--name-only", pull["branch"]).split()
    assert names == ["calc.py", "notes.txt"]


@pytest.mark.parametrize(
    ("held", "thought"),
    [
        ({"model": "mimo-v2-nano", "thinking": True}, "a - b, hm"),
        ({"model": "mimo-v2-flash", "thinking": True}, ""),
        ({"model": "mimo-v2-nano", "thinking": False}, ""),
    ],
)
async def test_a_task_reads_the_thoughts_of_its_own_model_alone(
    service: Service, hosted: Hosted, held: dict[str, object], thought: str
) -> None:
    await service.add(hosted)
    said = [
        {"role": "user", "content": "what is wrong here?"},
        {"role": "assistant", "content": "add() subtracts.", "reasoning_content": "a - b, hm"} | held,
    ]
    task = await service.done(conversation=said)

    assert task["status"] == "succeeded"
    shown = {"role": "assistant", "content": "add() subtracts.", "reasoning_content": thought}
    assert [messages[2] for messages, _ in service.model.requests] == [shown] * len(service.model.requests)


async def test_changes_that_do_not_fit_are_said(service: Service, hosted: Hosted) -> None:
    await service.add(hosted)
    task = await service.done(changes="--- a/calc.py\n+++ b/calc.py\n@@ -1 +1 @@\n-other\n+text\n")

    assert (task["status"], "do not fit commit" in task["error"]) == ("failed", True)
