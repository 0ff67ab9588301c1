"""Prompt spans to token ids, and sampled ids back to spans."""

import codecs
import json
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders

from model_server.chat.markers import CONTROL_MARKERS, IM_END
from model_server.chat.template import Span, text_spans

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()
_END_OF_TEXT = "<|endoftext|>"


class TokenizerError(Exception):
    """The tokenizer file cannot serve this chat format; the message says what is wrong with it."""


class ChatTokenizer:
    """A byte-level BPE tokenizer that knows control markers from text.

    Markers are encoded by id where the template wrote them, and never where a caller's text holds the same
    characters. Other added tokens (fixed strings of prompts, for example) are matched in text as usual.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        if not isinstance(tokenizer.decoder, decoders.ByteLevel):
            raise TokenizerError(f"the tokenizer decodes by {type(tokenizer.decoder).__name__}, not by bytes")
        missing = [marker for marker in CONTROL_MARKERS if tokenizer.token_to_id(marker) is None]
        if missing:
            raise TokenizerError(f"the vocabulary lacks the control markers {', '.join(missing)}")
        self._tokenizer = _with_special_markers(tokenizer)
        self._ids = {marker: _id_of(tokenizer, marker) for marker in CONTROL_MARKERS}
        self._markers = {token_id: marker for marker, token_id in self._ids.items()}
        self._added = {
            token_id: token.content.encode() for token_id, token in tokenizer.get_added_tokens_decoder().items()
        }
        end_of_text = tokenizer.token_to_id(_END_OF_TEXT)
        self.end_ids = frozenset({self._ids[IM_END]} | ({end_of_text} if end_of_text is not None else set()))
        """Tokens that end the assistant's turn."""

    @classmethod
    def load(cls, checkpoint: Path) -> "ChatTokenizer":
        """Read ``tokenizer.json`` of a checkpoint folder.

        Raises:
            OSError: the file cannot be read.
            TokenizerError: it is not a byte-level tokenizer with the control markers.
        """
        path = checkpoint / "tokenizer.json"
        description = path.read_bytes()
        try:
            tokenizer = Tokenizer.from_buffer(description)
        except Exception as error:  # the library raises nothing narrower
            raise TokenizerError(f"{path} is no tokenizer: {error}") from error
        return cls(tokenizer)

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text: markers, other special tokens, and numbers that no token has."""
        added = self._tokenizer.get_added_tokens_decoder()
        special = {token_id for token_id, token in added.items() if token.special}
        unused = {token_id for token_id in range(self.vocab_size) if self._tokenizer.id_to_token(token_id) is None}
        return frozenset(special | unused | self.end_ids)

    @property
    def vocab_size(self) -> int:
        """Ids in use, markers and added tokens included; a model's table may be padded beyond it."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def marker_id(self, marker: str) -> int:
        """Id of a control marker."""
        return self._ids[marker]

    def encode(self, spans: Iterable[Span]) -> list[int]:
        """Token ids of a rendered prompt."""
        ids: list[int] = []
        for span in spans:
            ids += [self._ids[span.text]] if span.control else self.encode_text(span.text)
        return ids

    def encode_text(self, text: str) -> list[int]:
        """Token ids of text in which markers mean nothing."""
        # The library's call for several texts lets other threads go on meanwhile; that for one does not.
        return self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def decode(self, ids: Sequence[int]) -> list[Span]:
        """Spans of sampled ids: neighbouring text is joined, bytes that are no UTF-8 become U+FFFD."""
        stream = self.stream()
        spans = [span for token_id in ids for span in stream.push(token_id)] + stream.finish()
        return _joined(spans)

    def stream(self) -> "DecodeStream":
        """A decoder for one sequence."""
        return DecodeStream(self)

    def marker(self, token_id: int) -> str | None:
        """The control marker of an id, or None for text."""
        return self._markers.get(token_id)

    def token_bytes(self, token_id: int) -> bytes:
        """What a text token stands for. An id beyond the vocabulary (padding rows of the head) is U+FFFD."""
        added = self._added.get(token_id)
        if added is not None:
            return added
        token = self._tokenizer.id_to_token(token_id)
        return _REPLACEMENT if token is None else bytes(map(_byte_values().__getitem__, token))


class DecodeStream:
    """Decodes one sequence token by token, never cutting a code point: its bytes wait until it is whole."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> list[Span]:
        """Spans that this token completes: none, text, a marker, or broken text before a marker."""
        marker = self._tokenizer.marker(token_id)
        if marker is not None:
            return [*self.finish(), Span(marker, control=True)]
        return text_spans(self._utf8.decode(self._tokenizer.token_bytes(token_id)))

    def finish(self) -> list[Span]:
        """What an unfinished code point becomes."""
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return text_spans(text)


def _with_special_markers(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that reads special tokens in text as ordinary text, with the markers among the special ones.

    The published vocabulary marks the think and tool-call markers as ordinary added tokens, which would be matched
    in a caller's text.
    """
    description: dict[str, Any] = json.loads(tokenizer.to_str())
    for token in description["added_tokens"]:
        token["special"] = token["special"] or token["content"] in CONTROL_MARKERS
    copy = Tokenizer.from_str(json.dumps(description))
    copy.encode_special_tokens = True
    return copy


def _id_of(tokenizer: Tokenizer, token: str) -> int:
    token_id = tokenizer.token_to_id(token)
    assert token_id is not None, token
    return token_id


def _joined(spans: Iterable[Span]) -> list[Span]:
    joined: list[Span] = []
    for control, alike in groupby(spans, attrgetter("control")):
        if control:
            joined += alike
        else:
            joined += text_spans("".join(span.text for span in alike))
    return joined


@cache
def _byte_values() -> dict[str, int]:
    """The character byte-level BPE writes for each byte, reversed: printable bytes stand for themselves, the others
    for code points from 256 on, in order (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}
