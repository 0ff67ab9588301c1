"""Identifiers that a model cannot know by heart, split by hash into training and held-out ones."""

import hashlib
import keyword
from importlib.resources import files
from random import Random
from typing import Literal

Split = Literal["train", "heldout"]

_HELD_OUT_OF = 10
"""One identifier in this many is held out."""
_BLENDED = 0.6
"""Share of training pieces that are blends. With a closed list of words, a model learns the list and not to copy."""
_ONSETS = ("b", "c", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "st", "tr", "pl")
_VOWELS = ("a", "e", "i", "o", "u")
_CODAS = ("", "", "", "n", "r", "s", "l", "t", "m", "x")


def split_of(identifier: str) -> Split:
    """Which side an identifier belongs to; a property of its spelling alone."""
    digest = hashlib.blake2b(identifier.encode(), digest_size=4).digest()
    return "heldout" if int.from_bytes(digest, "big") % _HELD_OUT_OF == 0 else "train"


class NameSource:
    """Draws identifiers of one split, never the same one twice until :meth:`reset`.

    A name is one or two pieces joined by ``_``; a piece is a word, one or two syllables or a few letters. A training
    name has no held-out piece and is not held out as a whole, so that no held-out spelling is ever seen in training.
    """

    def __init__(self, split: Split, random: Random) -> None:
        self.split = split
        self._random = random
        self._words = [word for word in words() if split_of(word) == split]
        self.used: set[str] = set()
        """Every name drawn since the last reset."""

    def reset(self) -> None:
        self.used = set()

    def draw(self) -> str:
        while True:
            pieces = [self._piece() for _ in range(1 if self._random.random() < 0.85 else 2)]
            name = "_".join(pieces)
            if name in self.used or keyword.iskeyword(name) or name in RESERVED:
                continue
            if split_of(name) == self.split and (self.split == "heldout" or self._is_training(pieces)):
                self.used.add(name)
                return name

    @staticmethod
    def _is_training(pieces: list[str]) -> bool:
        return all(split_of(piece) == "train" for piece in pieces)

    def _piece(self) -> str:
        if self.split == "train" and self._random.random() < _BLENDED:
            return self._blend()
        kind = self._random.random()
        if kind < 0.5:
            return self._random.choice(self._words)
        if kind < 0.95:
            return "".join(self._syllable() for _ in range(self._random.choice((1, 2, 2))))
        return "".join(self._random.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(self._random.choice((2, 3))))

    def _blend(self) -> str:
        """The beginning of one word and the end of another: spelled like a word, and in no list."""
        first, second = self._random.choice(self._words), self._random.choice(self._words)
        return first[: self._random.randint(1, 4)] + second[self._random.randint(1, len(second) - 2) :]

    def _syllable(self) -> str:
        choose = self._random.choice
        return choose(_ONSETS) + choose(_VOWELS) + choose(_CODAS)


def words() -> list[str]:
    """The closed list of English words names are made of."""
    return files("evals.synthesis").joinpath("words.txt").read_text("utf-8").split()


RESERVED = frozenset(
    """
    abs all and any append as assert at bool both by call cat chr cls copy count def
    del dict divmod each else enum equal expected fails file filter first fix float for format from get
    git given gives got grep if import in int into is it item items its join key keys
    last left len less lines list lower map max min more most name new no none not of
    off old on one or ord other out over pass path pop print py python range repr result
    return returns reversed right round run self set should sorted split src str strip sum swap test tests
    text than that the then this times to tuple two type upper value values when where which while
    with word words wrong zip but are be has an
    """.split()  # noqa: SIM905 - a list of 140 lines says no more
)
"""Words of our templates and of Python: never an identifier, so that seeing them in text proves nothing."""
