"""What the user adds to the agent: skills, hooks and commands, in real folders and sandboxes."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.cli.chat.custom import CustomCommand, find_commands
from agent.cli.chat.host import HostSandbox
from agent.cli.chat.skills import find_skills
from agent.cli.failure import Failure
from agent.permissions.policy import Mode
from agent.testing import call, in_order
from agent.tools.hook import Hook, Hooks
from agent.types import AssistantMessage
from tests.integration.chat.conftest import Open

pytestmark = pytest.mark.anyio


def say(text: str) -> AssistantMessage:
    return AssistantMessage(content=text, reasoning_content="", finish_reason="stop")


def write_skill(folder: Path, name: str, text: str = "Do it well.", description: str = "how to do it") -> Path:
    path = folder / name / "SKILL.md"
    path.parent.mkdir(parents=True)
    path.write_text(f"---\nname: {name}\ndescription: >\n  {description}\nlicense: none\n---\n\n{text}\n")
    return path.parent


async def test_a_skill_of_the_folder_takes_the_place_of_the_users_and_all_come_by_name(
    tmp_path: Path, root: Path
) -> None:
    write_skill(tmp_path / "mine", "review", "Mine.")
    write_skill(tmp_path / "mine", "deploy")
    write_skill(root / ".agents" / "skills", "review", "Theirs.")
    skills = find_skills(tmp_path / "mine", root, sandboxed=True)
    assert [(skill.name, skill.text) for skill in skills] == [("deploy", "Do it well."), ("review", "Theirs.")]
    assert [skill.name for skill in find_skills(tmp_path / "mine", None, sandboxed=True)] == ["deploy", "review"]


async def test_the_model_reads_a_skill_when_it_asks_and_finds_its_files(
    open_chat: Open, tmp_path: Path, root: Path
) -> None:
    (write_skill(tmp_path / "mine", "greet") / "hello.sh").write_text("echo hello from a skill\n")
    (write_skill(root / ".agents" / "skills", "part") / "bye.sh").write_text("echo bye from a skill\n")
    skills = find_skills(tmp_path / "mine", root, sandboxed=True)
    run = [call("bash", command=f"sh {skill.place}/*.sh") for skill in skills]
    script = in_order(call("skill", skill="greet"), run[0], call("skill", skill="part"), run[1], say("done"))
    async with open_chat(script, skills=skills) as chat:
        chat.choose(Mode.AUTO)
        await chat.say("greet")
        read = [message["content"] for message in await chat.messages() if message["role"] == "tool"]
    assert read[0].startswith("Do it well.")
    assert "hello from a skill" in read[1]
    assert "bye from a skill" in read[3]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("no head", "does not begin with a head"),
        ("---\nname: x\n---\n", "description"),
        ("---\nname: [\n---\n", "is not YAML"),
        ("---\nname: ../x\ndescription: d\n---\n", "name"),
    ],
)
async def test_a_skill_that_cannot_be_read_is_named_with_its_mistake(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "SKILL.md").write_text(text)
    with pytest.raises(Failure) as failed:
        find_skills(tmp_path, None, sandboxed=True)
    assert what in failed.value.message
    assert "SKILL.md" in failed.value.message


async def test_a_command_of_the_folder_is_what_its_file_says(tmp_path: Path, root: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "check.md").write_text("# Check it\n\nRun the tests of $ARGUMENTS.\n")
    (root / ".mimo" / "commands").mkdir(parents=True)
    (root / ".mimo" / "commands" / "ship.md").write_text("Ship it.")
    commands = find_commands(tmp_path / "mine", root)
    assert commands == (
        CustomCommand("/check", "# Check it\n\nRun the tests of $ARGUMENTS."),
        CustomCommand("/ship", "Ship it."),
    )
    assert commands[0].meaning == "Check it"
    assert commands[0].filled("units").endswith("Run the tests of units.")


async def test_a_refusing_hook_is_read_by_the_model_and_the_call_is_not_made(open_chat: Open, root: Path) -> None:
    guard = Hook(on="before_tool", tool="str_*", command='grep -q \'"path": "calc.py"\' && echo hands off; exit 1')
    edit = call("str_replace", path="calc.py", old_str="a - b", new_str="a + b")
    async with open_chat(in_order(edit, say("then not")), hooks=Hooks([guard], HostSandbox(root))) as chat:
        chat.choose(Mode.AUTO)
        await chat.say("repair it")
        read = (await chat.messages())[-2]["content"]
    assert read == "[error] str_replace: refused by a hook: hands off"
    assert (root / "calc.py").read_text().endswith("a - b\n")


async def test_hooks_run_where_they_are_told_to_and_what_they_say_after_a_call_is_added(
    open_chat: Open, root: Path
) -> None:
    inside = Hook(on="after_tool", tool="bash", command="cat > seen.json; test ! -e secret")
    outside = Hook(on="after_tool", tool="bash", where="machine", command="cat secret; exit 1")
    async with open_chat(
        in_order(call("bash", command="echo hi"), say("ok")), hooks=Hooks([inside, outside], HostSandbox(root))
    ) as chat:
        chat.choose(Mode.AUTO)
        await chat.say("go")
        read = (await chat.messages())[-2]["content"]
    assert read.endswith("[a hook says: 1234]")
    assert '"result": "hi\\n[exit code: 0]"' in (root / "seen.json").read_text()


async def test_a_hook_that_is_not_content_with_the_end_has_one_more_turn(open_chat: Open, root: Path) -> None:
    seen: list[str] = []

    def script(messages: Sequence[dict[str, object]]) -> AssistantMessage:
        seen.append(str(messages[-1]["content"]))
        return say("done")

    unhappy = Hook(on="stop", command="echo the tests fail; exit 1")
    async with open_chat(script, hooks=Hooks([unhappy], HostSandbox(root))) as chat:
        await chat.say("repair it")
        text = chat.unqueue()
        assert text == "[a hook says] the tests fail"
        await chat.say(text)
        assert not chat.state.queue
