"""The nano checkpoint's tokenizer: byte-level BPE in which one identifier is always the same tokens.

A small model repairs code by copying, and it can only copy what is spelled alike wherever it stands. So a name never
absorbs the space before it, digits stand alone, and what is fixed in production (the native profile's prompt and
schemas, tags, the frame of a test report) is one token each.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import date
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from agent.profiles.native import native
from model_server.chat.markers import CONTROL_MARKERS
from model_server.chat.template import render
from training.episodes import TEST_COMMAND, TOOLS

END_OF_TEXT = "<|endoftext|>"
_PIECES = "|".join(
    (
        r" (?:in|and|or|if|else|import|for|is|not in) (?=\S)",
        r"(?:def|return|for|if|elif|while|not|from|cat|assert|import) (?=\S)",
        r"\n+ *",
        r"[\])}'\"]+(?= [<>=!%*+/-])",
        r"\d",
        r" ?[A-Za-z]+",
        r"_",
        r" ?[^\sA-Za-z0-9_]+ ?",
        r" +",
        r"\s",
    )
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train on rendered conversations; control markers come first, then bytes, merges and the fixed strings."""
    fixed = fixed_strings()
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [*CONTROL_MARKERS, END_OF_TEXT]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(fixed),
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_free_text(texts, [*special, *fixed]), trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in fixed])
    return tokenizer


def _free_text(texts: Iterable[str], fixed: list[str]) -> Iterator[str]:
    """The parts of the texts that merges must cover."""
    longest_first = sorted(fixed, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    for text in texts:
        yield from (part for part in pattern.split(text) if part)


def fixed_strings() -> list[str]:
    """What production always writes the same way."""
    return [
        *_prompt_parts(),
        "user\n",
        "assistant\n",
        "tool\n<tool_response>\n",
        "\n</tool_response>\n",
        "\n<function=bash>\n<parameter=command>",
        "\n<function=str_replace>\n<parameter=path>",
        "</parameter>\n<parameter=old_str>",
        "</parameter>\n<parameter=new_str>",
        "</parameter>\n</function>\n",
        "\n<function=finish>\n</function>\n",
        "\n[exit code: 0]",
        "\n[exit code: 1]",
        "[100%]\n",
        " passed in 0.",
        " failed, ",
        " failed in 0.",
        "[edited line ",
        "[error] old_str was not found; nearest lines:\n",
        TEST_COMMAND,
        " short test summary info ".center(80, "=") + "\n",
        "FAILED tests/test_",
        "::test_",
        "Updated 1 path from the index",
        "git checkout ",
        "grep -rn 'def ",
        '"""Return ',
        '"""Count ',
    ]


def _prompt_parts() -> list[str]:
    """The texts of the native profile's system turn, around its date and the markers the instructions mention."""
    day = date(2026, 1, 1)
    messages: list[dict[str, Any]] = [{"role": "system", "content": native().system_prompt(day)}]
    spans = render(messages, TOOLS, enable_thinking=True, add_generation_prompt=False)
    first, *others = [span.text for span in spans if not span.control]
    return [*first.split(f"{day.isoformat()} {day.strftime('%A')}"), *others]
