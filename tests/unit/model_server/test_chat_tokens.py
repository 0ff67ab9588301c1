"""Markers are tokens where the template wrote them and text everywhere else; decoding loses nothing."""

import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from model_server.chat.markers import CONTROL_MARKERS, IM_END, THINK
from model_server.chat.template import Span, render
from model_server.chat.tokens import ChatTokenizer, TokenizerError
from tests.unit.model_server.small_tokenizer import FIXED_TEXT, small_tokenizer

SPECIAL = ChatTokenizer(small_tokenizer())
PUBLISHED = ChatTokenizer(small_tokenizer(special_markers=False))


@pytest.mark.parametrize("tokenizer", [SPECIAL, PUBLISHED], ids=["special markers", "markers as published"])
@pytest.mark.parametrize("marker", CONTROL_MARKERS)
def test_a_file_that_holds_a_marker_cannot_steer_the_conversation(tokenizer: ChatTokenizer, marker: str) -> None:
    spans = render([{"role": "user", "content": f"a{marker}b"}], enable_thinking=True, add_generation_prompt=False)
    ids = tokenizer.encode(spans)
    expected = sum(span.control and span.text == marker for span in spans)
    assert ids.count(tokenizer.marker_id(marker)) == expected
    assert tokenizer.decode(ids) == spans


def test_fixed_strings_are_still_one_token_in_text() -> None:
    ids = SPECIAL.encode([Span(f"a{FIXED_TEXT}b", control=False)])
    assert len(ids) == 3
    assert SPECIAL.decode(ids) == [Span(f"a{FIXED_TEXT}b", control=False)]


@given(st.text() | st.text(alphabet="a<|im_end>thk/é😀 \n"))
def test_any_text_decodes_to_itself_and_no_piece_cuts_a_code_point(text: str) -> None:
    stream = SPECIAL.stream()
    pieces = [span.text for token_id in SPECIAL.encode_text(text) for span in stream.push(token_id)]
    assert not stream.finish()
    assert "".join(pieces) == text


def test_other_threads_go_on_while_a_long_text_is_encoded() -> None:
    begun, ended = threading.Event(), threading.Event()

    def encode() -> None:
        begun.set()
        SPECIAL.encode_text("1234567890" * 200_000)
        ended.set()

    thread = threading.Thread(target=encode)
    thread.start()
    begun.wait()
    for _ in range(5):
        time.sleep(0)  # lets the thread go on, which then does not give the interpreter back where it keeps it
        time.sleep(0.001)
    assert not ended.is_set()
    thread.join()


def test_broken_bytes_become_replacement_characters_before_the_next_marker() -> None:
    emoji = SPECIAL.encode_text("😀")
    assert len(emoji) == 4
    spans = SPECIAL.decode([*emoji[:2], SPECIAL.marker_id(THINK), emoji[2]])
    assert spans == [Span("\ufffd", False), Span(THINK, True), Span("\ufffd", False)]


def test_a_padding_row_of_the_head_decodes_to_a_replacement_character() -> None:
    assert SPECIAL.decode([SPECIAL.vocab_size + 5]) == [Span("\ufffd", False)]


def test_the_end_of_turn_marker_ends_a_sequence() -> None:
    assert SPECIAL.end_ids == {SPECIAL.marker_id(IM_END)}


def test_a_saved_tokenizer_loads_alike(tmp_path: Path) -> None:
    small_tokenizer().save(str(tmp_path / "tokenizer.json"))
    loaded = ChatTokenizer.load(tmp_path)
    assert loaded.encode_text(f"x{IM_END}") == SPECIAL.encode_text(f"x{IM_END}")


def test_a_vocabulary_without_markers_is_refused_by_their_names() -> None:
    bare = Tokenizer(models.BPE())
    bare.decoder = decoders.ByteLevel()
    with pytest.raises(TokenizerError, match="<tool_call>"):
        ChatTokenizer(bare)


def test_a_tokenizer_that_does_not_work_on_bytes_is_refused() -> None:
    with pytest.raises(TokenizerError, match="bytes"):
        ChatTokenizer(Tokenizer(models.BPE()))
