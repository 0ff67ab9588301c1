"""A conversation as whoever shows it sees it: real sandboxes and files, a scripted model."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from agent.cli.chat.conversation import Consent
from agent.cli.chat.files import FileHistory
from agent.cli.chat.folders import ConversationBusy, fork, list_conversations
from agent.permissions.policy import Mode
from agent.testing import call, in_order
from agent.types import AssistantMessage, Message, ModelOptions, StopReason
from tests.integration.chat.conftest import Open, Recorder
from tests.integration.cli.conftest import git

pytestmark = pytest.mark.anyio


def say(text: str) -> AssistantMessage:
    return AssistantMessage(content=text, reasoning_content="", finish_reason="stop")


EDIT = call("str_replace", path="calc.py", old_str="a - b", new_str="a + b")


async def test_an_answer_without_a_call_ends_the_turn_and_the_next_turn_remembers_it(open_chat: Open) -> None:
    seen: list[Sequence[Message]] = []

    def script(messages: Sequence[Message]) -> AssistantMessage:
        seen.append(list(messages))
        return say(f"answer {len(seen)}")

    async with open_chat(script) as chat:
        assert (await chat.say("first")).stop_reason is StopReason.FINISHED
        await chat.say("second")
    assert [message["content"] for message in seen[1][1:]] == ["first", "answer 1", "second"]


@pytest.mark.parametrize(
    ("then", "thoughts"),
    [
        pytest.param(ModelOptions(name="a"), ["hm"], id="the same model"),
        pytest.param(ModelOptions(name="b"), [""], id="another model"),
        pytest.param(ModelOptions(name="a", thinking=False), [""], id="the same one that no longer thinks"),
    ],
)
async def test_who_goes_on_with_a_conversation_reads_its_own_thoughts_alone(
    open_chat: Open, then: ModelOptions, thoughts: list[str]
) -> None:
    seen: list[Sequence[Message]] = []

    def script(messages: Sequence[Message]) -> AssistantMessage:
        seen.append(list(messages))
        return say("yes").model_copy(update={"reasoning_content": "hm"})

    async with open_chat(script, options=ModelOptions(name="a")) as chat:
        await chat.say("first")
    async with open_chat(script, options=then) as chat:
        await chat.say("second")
    said = [message for message in seen[1] if message["role"] == "assistant"]
    assert [message["reasoning_content"] for message in said] == thoughts


async def test_the_summary_of_a_conversation_is_made_without_its_thoughts(open_chat: Open) -> None:
    seen: list[Sequence[Message]] = []

    def script(messages: Sequence[Message]) -> AssistantMessage:
        seen.append(list(messages))
        return say("yes").model_copy(update={"reasoning_content": "hm"})

    async with open_chat(script) as chat:
        await chat.say("first")
        await chat.compact()
    said = [message for message in seen[1] if message["role"] == "assistant"]
    assert [message["reasoning_content"] for message in said] == [""]


async def test_what_the_sandbox_changes_reaches_the_folder_and_what_git_ignores_stays_out(
    open_chat: Open, root: Path
) -> None:
    script = in_order(EDIT, call("bash", command="ls -a > listing; mkdir -p a && touch a/b"), say("done"))
    async with open_chat(script) as chat:
        chat.choose(Mode.AUTO)
        await chat.say("repair it")
    assert (root / "calc.py").read_text().endswith("a + b\n")
    assert (root / "a" / "b").exists()
    assert "secret" not in (root / "listing").read_text().split()
    assert (root / "secret").read_text() == "1234"


async def test_the_next_command_sees_what_the_user_changed_meanwhile(open_chat: Open, root: Path) -> None:
    show = call("bash", command="cat calc.py; ls")
    async with open_chat(in_order(show, say("1"), show, say("2"))) as chat:
        await chat.say("look")
        (root / "calc.py").write_text("mine\n")
        (root / "new").touch()
        (root / ".gitignore").unlink()
        (root / "secret").unlink()
        await chat.say("look again")
        text = (await chat.messages())[-2]["content"]
    assert text == "mine\ncalc.py\nnew\n[exit code: 0]"


async def test_a_refused_call_is_not_made_and_the_model_reads_why(
    open_chat: Open, root: Path, recorder: Recorder
) -> None:
    recorder.consents = [Consent(False, reason="keep the minus")]
    async with open_chat(in_order(EDIT, say("as you like"))) as chat:
        await chat.say("repair it")
        refusal = (await chat.messages())[-2]
    assert "keep the minus" in refusal["content"]
    assert (root / "calc.py").read_text().endswith("a - b\n")


@pytest.mark.parametrize("sandboxed", [True, False])
async def test_an_edit_that_cannot_be_made_is_not_asked_about(
    open_chat: Open, root: Path, recorder: Recorder, sandboxed: bool
) -> None:
    missed = call("str_replace", path="calc.py", old_str="a * b", new_str="a + b")
    recorder.consents = [Consent(True)]
    async with open_chat(in_order(missed, EDIT, say("done")), sandboxed=sandboxed) as chat:
        await chat.say("repair it")
        told = [each["content"] for each in await chat.messages() if each["role"] == "tool"]
    assert "old_str was not found; nearest lines:" in told[0]
    assert [asked.parts[0].text for asked in recorder.asked] == ["str_replace"]
    assert (root / "calc.py").read_text().endswith("a + b\n")


async def test_always_holds_for_the_conversation_and_after_it_was_opened_again(
    open_chat: Open, recorder: Recorder
) -> None:
    make = call("bash", command="true && touch x")
    async with open_chat(in_order(make, say("ok"))) as chat:
        recorder.consents = [Consent(True)]
        await chat.say("once")
        grants = recorder.asked[0].grants
        assert grants is not None
    async with open_chat(in_order(make, say("ok"), make, say("ok"))) as chat:
        recorder.consents = [Consent(True, always=grants)]
        await chat.say("again")
        await chat.say("and again")
    assert len(recorder.asked) == 2


async def test_planning_changes_nothing_and_asks_nothing(open_chat: Open, root: Path, recorder: Recorder) -> None:
    async with open_chat(in_order(EDIT, say("I would add"))) as chat:
        chat.choose(Mode.PLAN)
        await chat.say("repair it")
    assert recorder.asked == []
    assert (root / "calc.py").read_text().endswith("a - b\n")


async def test_an_interrupted_turn_leaves_a_conversation_that_goes_on(open_chat: Open, recorder: Recorder) -> None:
    async with open_chat(in_order(EDIT, say("fine"))) as chat:
        recorder.consents = [Consent(True)]
        recorder.on_consent = chat.interrupt
        ended = await chat.say("repair it")
        assert ended.stop_reason is StopReason.CANCELLED
        assert (await chat.say("what now?")).stop_reason is StopReason.FINISHED
        roles = [message["role"] for message in await chat.messages()]
    assert roles == ["user", "assistant", "tool", "user", "assistant"]


async def test_an_interrupt_in_the_place_of_an_answer_ends_the_turn(open_chat: Open, recorder: Recorder) -> None:
    async with open_chat(in_order(EDIT, say("fine"))) as chat:
        recorder.consents = [None]
        recorder.on_consent = chat.interrupt
        assert (await chat.say("repair it")).stop_reason is StopReason.CANCELLED
        assert (await chat.say("what now?")).stop_reason is StopReason.FINISHED
        roles = [message["role"] for message in await chat.messages()]
    assert roles == ["user", "assistant", "tool", "user", "assistant"]


async def test_a_turn_left_with_a_question_can_be_dropped(open_chat: Open, recorder: Recorder) -> None:
    async with open_chat(in_order(EDIT)) as chat:
        recorder.consents = [None]
        with anyio.CancelScope() as leaving:
            recorder.on_consent = leaving.cancel
            await chat.say("repair it")
    async with open_chat(in_order(say("fine"))) as chat:
        assert chat.unfinished
        recorder.consents, recorder.on_consent = [None], lambda: None
        await chat.drop_unfinished()
        assert (await chat.say("what now?")).stop_reason is StopReason.FINISHED


async def test_what_the_user_says_into_a_turn_is_read_before_the_next_answer(
    open_chat: Open, recorder: Recorder
) -> None:
    steering: list[asyncio.Future[None]] = []
    async with open_chat(in_order(EDIT, say("ok"))) as chat:
        recorder.consents = [Consent(True)]
        recorder.on_consent = lambda: steering.append(asyncio.ensure_future(chat.steer("and document it")))
        await chat.say("repair it")
        said = [message["content"] for message in await chat.messages() if message["role"] == "user"]
    assert said == ["repair it", "and document it"]


async def test_what_the_user_says_too_late_for_a_turn_is_next_in_the_queue(open_chat: Open, recorder: Recorder) -> None:
    steering: list[asyncio.Future[None]] = []

    def script(messages: Sequence[Message]) -> AssistantMessage:
        steering.append(asyncio.ensure_future(chat.steer("one more thing")))
        return say("done")

    async with open_chat(script) as chat:
        await chat.say("repair it")
        assert chat.state.queue == ("one more thing",)


async def test_rewinding_restores_files_conversation_or_both(open_chat: Open, root: Path, recorder: Recorder) -> None:
    script = in_order(EDIT, say("done"), call("bash", command="rm calc.py; touch other"), say("gone"), say("what?"))
    async with open_chat(script, sandboxed=False) as chat:
        chat.choose(Mode.ACCEPT_EDITS)
        await chat.say("repair it")
        before = chat.state.turns[-1].before
        chat.choose(Mode.AUTO)
        recorder.consents = [Consent(True)]
        await chat.say("remove it")
        assert not (root / "calc.py").exists()
        await chat.put_back(before)
        assert (root / "calc.py").read_text().endswith("a - b\n")
        assert not (root / "other").exists()
        assert (root / "secret").read_text() == "1234"
        assert len(await chat.messages()) > 4
        await chat.put_back(chat.state.put_back[-1].until_now)
        assert (root / "other").exists()
        chat.rewind(0)
        assert await chat.messages() == []


@pytest.mark.parametrize("sandboxed", [True, False])
async def test_what_the_user_changed_between_two_calls_is_kept_before_the_second(
    open_chat: Open, root: Path, recorder: Recorder, sandboxed: bool
) -> None:
    remove = call("bash", command="rm -f mine calc.py")
    script = in_order(EDIT, remove, say("gone"))

    def while_the_user_writes(messages: Sequence[Message]) -> AssistantMessage:
        if len(messages) == 4:  # The edit was made; the call that loses work comes next.
            (root / "mine").write_text("by hand\n")
        return script(messages)

    async with open_chat(while_the_user_writes, sandboxed=sandboxed) as chat:
        chat.choose(Mode.AUTO)
        recorder.consents = [Consent(True)]
        await chat.say("repair it")
        assert not (root / "mine").exists()
    async with open_chat(in_order(), sandboxed=sandboxed) as chat:
        edited, removed = await chat.changed(chat.state.turns[-1])
        assert [edited.call.name, removed.call.name] == ["str_replace", "bash"]
        await chat.put_back(removed.before)
        assert (root / "mine").read_text() == "by hand\n"
        assert (root / "calc.py").read_text().endswith("a + b\n")
        await chat.put_back(edited.before)
        assert (root / "calc.py").read_text().endswith("a - b\n")
        assert not (root / "mine").exists()


async def test_a_fork_goes_its_own_way(open_chat: Open, tmp_path: Path) -> None:
    async with open_chat(in_order(say("1"), say("2"))) as chat:
        await chat.say("a")
        copy = fork(chat.folder)
        await chat.say("b")
        async with open_chat(in_order(say("3")), copy.name) as other:
            await other.say("c")
            said = [message["content"] for message in await other.messages()]
    assert said == ["a", "1", "c", "3"]
    assert len(list_conversations(tmp_path / "conversations")) == 2


async def test_a_compacted_conversation_is_shown_to_the_model_as_its_summary(open_chat: Open) -> None:
    async with open_chat(in_order(say("1"), say("the user greets"), say("2"))) as chat:
        await chat.say("a")
        await chat.compact("greetings")
        await chat.say("b")
        texts = [message["content"] for message in await chat.messages()]
    assert "the user greets" in texts[0]
    assert texts[2:] == ["b", "2"]


async def test_summing_up_takes_nothing_from_what_the_user_can_read(open_chat: Open) -> None:
    async with open_chat(in_order(say("1"), say("the user greets"))) as chat:
        await chat.say("a")
        before = [await chat.events(turn) for turn in chat.state.turns]
        await chat.compact()
    async with open_chat(in_order()) as chat:
        assert [await chat.events(turn) for turn in chat.state.turns] == before


async def test_two_terminals_do_not_share_a_conversation(open_chat: Open) -> None:
    async with open_chat(in_order()):
        with pytest.raises(ConversationBusy, match="another terminal"):
            async with open_chat(in_order()):
                pass


async def test_files_changed_on_both_sides_stay_the_users(root: Path, tmp_path: Path) -> None:
    history = await FileHistory.open(root, tmp_path / "files.git")
    old = await history.keep()
    (root / "calc.py").write_text("theirs\n")
    (root / "added").touch()
    new = await history.keep()
    await history.put_back(old)
    (root / "calc.py").write_text("mine\n")
    assert await history.bring(old, new) == ("calc.py",)
    assert (root / "calc.py").read_text() == "mine\n"
    assert (root / "added").exists()


async def test_the_users_git_is_left_alone(root: Path, tmp_path: Path) -> None:
    git(root, "init", "-q")
    git(root, "add", "-f", "secret", "calc.py")
    history = await FileHistory.open(root, tmp_path / "files.git")
    before, status = await history.keep(), git(root, "status", "--porcelain")
    (root / "secret").write_text("5678")
    (root / "calc.py").unlink()
    await history.put_back(before)
    assert (root / "secret").read_text() == "1234"
    assert git(root, "status", "--porcelain") == status


async def test_a_question_beside_the_matter_is_answered_from_what_was_said_and_forgotten(open_chat: Open) -> None:
    seen: list[Sequence[Message]] = []

    def script(messages: Sequence[Message]) -> AssistantMessage:
        seen.append(list(messages))
        return say(f"answer {len(seen)}")

    async with open_chat(script) as chat:
        await chat.say("first")
        assert await chat.aside("what is a monad?") == "answer 2"
        await chat.say("second")
    assert [message["content"] for message in seen[1][1:3]] == ["first", "answer 1"]
    assert [message["content"] for message in seen[2][1:]] == ["first", "answer 1", "second"]


async def test_a_conversation_that_was_ended_while_it_read_the_folder_goes_on(
    open_chat: Open, tmp_path: Path, root: Path
) -> None:
    async with open_chat(in_order(say("1"))) as chat:
        await chat.say("a")
        (chat.folder / "files.git" / "index.lock").touch()
    async with open_chat(in_order(say("2"))) as chat:
        for number in range(200):
            (root / f"file{number}").touch()
        reading = asyncio.ensure_future(chat.history.keep())
        await asyncio.sleep(0)
        reading.cancel()
        assert (await chat.say("b")).stop_reason is StopReason.FINISHED


async def test_a_turn_is_interrupted_while_the_files_are_read(open_chat: Open) -> None:
    async with open_chat(in_order(say("all is well"))) as conversation:
        saying = asyncio.ensure_future(conversation.say("one"))
        await asyncio.sleep(0)
        assert conversation.busy
        conversation.interrupt()
        assert (await saying).stop_reason is StopReason.CANCELLED
        assert not conversation.busy
        assert conversation.state.turns == ()
        assert (await conversation.say("two")).stop_reason is StopReason.FINISHED


async def test_a_git_that_was_killed_in_the_middle_does_not_stop_the_next_turn(open_chat: Open) -> None:
    async with open_chat(in_order(say("one"), say("two"))) as conversation:
        await conversation.say("first")
        (conversation.folder / "files.git" / "index.lock").touch()
        assert (await conversation.say("second")).stop_reason is StopReason.FINISHED
