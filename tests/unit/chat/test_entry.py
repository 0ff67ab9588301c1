"""What is typed, and what of an answer may be printed before all of it is there."""

from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from agent.cli.chat.entry import Pastes, Vocabulary, Words
from agent.cli.chat.lines import Stream

FILES = ["src/parser/lexer.py", "src/parser/tokens.py", "README.md"]


def offered(typed: str) -> list[str]:
    words = Words(Vocabulary([("/rewind", "back"), ("/diff", "changes")], FILES))
    return [completion.text for completion in words.get_completions(Document(typed), CompleteEvent())]


def test_commands_and_files_are_found_by_some_of_their_letters() -> None:
    assert offered("/rwd") == ["/rewind"]
    assert offered("look at @tokens") == ["src/parser/tokens.py"]
    assert offered("look at @splex") == ["src/parser/lexer.py"]
    assert offered("mail me@tokens") == []


@given(st.text(max_size=2000))
def test_a_paste_comes_back_as_it_was(text: str) -> None:
    pastes = Pastes()
    assert pastes.unfold(pastes.fold(text)) == text.replace("\r\n", "\n").replace("\r", "\n")


def test_a_block_is_given_out_when_it_is_complete_and_a_fence_only_as_a_whole() -> None:
    stream = Stream()
    assert stream.add("# One\n") == ""
    assert stream.add("\ntext\n\n```python\na\n\n") == "# One\n\ntext\n\n"
    assert stream.add("b\n```\n\n") == "```python\na\n\nb\n```\n\n"
    assert stream.rest() == ""


@given(st.text(alphabet="ab`#\n -", max_size=200), st.integers(1, 20))
def test_streaming_loses_nothing(text: str, size: int) -> None:
    stream = Stream()
    given_out = "".join(stream.add(text[at : at + size]) for at in range(0, len(text), size))
    assert given_out + stream.rest() == text
