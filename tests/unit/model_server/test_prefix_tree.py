"""The prefix tree against a list of everything that was ever put in."""

from array import array
from collections import Counter
from dataclasses import dataclass, field

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_server.engine.hidden_tail import HiddenTail
from model_server.engine.pages import PageAllocator, SlotAllocator
from model_server.engine.prefix_tree import Match, Node, PrefixTree, Snapshot
from model_server.engine.routes import Routes
from model_server.kernels.batch import PAGE

UNDOABLE = 32
SALTS = ("", "other", "2")

_texts = st.builds(
    lambda blocks, cut: [token for block in blocks for token in [block] * 40 + [9]][:cut],
    st.lists(st.integers(0, 2), min_size=1, max_size=6),
    st.integers(1, 300),
)
_salts = st.sampled_from(SALTS)


@dataclass
class Workload:
    """A tree, and what its pages and slots hold."""

    max_snapshots: int = 1000
    pages: PageAllocator = field(default_factory=lambda: PageAllocator(2000))
    slots: SlotAllocator = field(default_factory=lambda: SlotAllocator(400))
    in_pages: dict[int, list[int]] = field(default_factory=dict)
    in_slots: dict[int, tuple[str, list[int]]] = field(default_factory=dict)
    inserted: list[tuple[str, list[int], int]] = field(default_factory=list)
    """Salt, tokens, and how far the ring was written."""

    def __post_init__(self) -> None:
        self.tree = PrefixTree(self.pages, self.slots, self.max_snapshots, UNDOABLE)

    def insert(self, salt: str, text: list[int], num_beyond: int) -> Node:
        """Put in what a sequence has that computed all of it; the node stays locked."""
        pages = self.pages.take(-(-len(text) // PAGE))
        for index, page in enumerate(pages):
            self.in_pages[page] = text[index * PAGE : (index + 1) * PAGE]
        routes = Routes(1, 1)
        routes.record(0, _experts(text).numpy())
        node = self.tree.insert(salt, array("i", text), array("i", pages), routes)
        if node.snapshot is None:
            slot = self.tree.take_slot()
            self.in_slots[slot] = (salt, text)
            self.tree.attach(node, Snapshot(slot, len(text) + num_beyond, HiddenTail(0)))
            self.inserted.append((salt, text, len(text) + num_beyond))
        self.pages.release(pages, running=True)
        return node

    def match(self, salt: str, prompt: list[int]) -> tuple[int, Match | None]:
        """What the tree says, checked against what pages and slots hold."""
        num_common, match = self.tree.match(salt, array("i", prompt))
        assert num_common < len(prompt)
        if match is not None:
            assert 0 < match.num_tokens <= num_common
            assert len(match.pages) == -(-match.num_tokens // PAGE)
            held = [token for page in match.pages for token in self.in_pages[page]]
            assert held[: match.num_tokens] == prompt[: match.num_tokens]
            assert torch.equal(match.experts, _experts(prompt[: match.num_tokens]))
            owner, text = self.in_slots[match.snapshot.slot]
            assert (owner, text[: match.num_tokens]) == (salt, prompt[: match.num_tokens])
            assert match.num_tokens == len(text) or match.snapshot.written - match.num_tokens <= UNDOABLE
        return num_common, match

    def check(self) -> None:
        """Every page and slot in use is in use by the tree, and every node is there for something."""
        held = Counter(page for node in self.tree.nodes() for page in set(node.pages))
        assert self.pages.num_used == len(held)
        assert self.pages.num_running == 0
        assert self.slots.num_used == self.tree.num_snapshots <= self.max_snapshots
        for node in self.tree.nodes():
            assert len(node.pages) == -(-node.end // PAGE) - node.start // PAGE
            assert len(node.experts) == len(node.ids) > 0
            assert node.num_locks or node.snapshot is not None or len(node.children) > 1


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.tuples(_salts, _texts, st.integers(0, 5)), max_size=12),
    st.lists(st.tuples(_salts, _texts), max_size=6),
)
def test_a_match_is_as_long_as_any_that_was_put_in_allows(
    insertions: list[tuple[str, list[int], int]], prompts: list[tuple[str, list[int]]]
) -> None:
    work = Workload()
    for insertion in insertions:
        work.tree.unlock(work.insert(*insertion))
        work.check()
    for salt, prompt in prompts:
        num_common, match = work.match(salt, prompt)
        texts = [(text, written) for owner, text, written in work.inserted if owner == salt]
        assert num_common == max((_common(text, prompt[:-1]) for text, _ in texts), default=0)
        expected = max((_usable(text, written, prompt[:-1], num_common) for text, written in texts), default=0)
        assert (0 if match is None else match.num_tokens) == expected


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_leaves_and_is_locked_what_is_matched_is_right_and_nothing_leaks(data: st.DataObject) -> None:
    work = Workload(max_snapshots=data.draw(st.integers(1, 6)))
    locked: list[Node] = []
    for _ in range(data.draw(st.integers(1, 30))):
        match data.draw(st.sampled_from(("insert", "insert", "match", "evict", "unlock"))):
            case "insert":
                locked.append(
                    work.insert(data.draw(_salts), data.draw(_texts), num_beyond=data.draw(st.integers(0, 5)))
                )
            case "match":
                _, match = work.match(data.draw(_salts), data.draw(_texts))
                if match is not None:
                    work.tree.lock(match.node)
                    locked.append(match.node)
            case "evict":
                work.tree.evict_leaf()
            case _ if locked:
                work.tree.unlock(locked.pop(data.draw(st.integers(0, len(locked) - 1))))
        work.check()
    for node in locked:
        work.tree.unlock(node)
    work.check()
    work.tree.clear()
    work.check()
    assert (work.pages.num_used, work.slots.num_used) == (0, 0)


def test_the_leaf_used_longest_ago_leaves_first() -> None:
    work = Workload()
    texts = [[index] * 100 for index in (1, 2, 3)]
    for text in texts:
        work.tree.unlock(work.insert("", text, 0))
    work.match("", [*texts[0], 9])
    assert work.tree.evict_leaf()
    assert [work.match("", [*text, 9])[0] for text in texts] == [100, 0, 100]


def test_a_locked_node_stays_and_so_does_what_leads_to_it() -> None:
    work = Workload()
    work.tree.unlock(work.insert("", [1] * 100, 0))
    node = work.insert("", [1] * 100 + [2] * 100, 0)
    work.tree.unlock(work.insert("", [3] * 100, 0))
    work.tree.clear()
    assert work.match("", [1] * 100 + [2] * 101)[0] == 200
    assert work.match("", [3] * 101)[0] == 0
    work.tree.unlock(node)


def _experts(text: list[int]) -> torch.Tensor:
    """Known by token and position."""
    return (torch.tensor(text) * 7 + torch.arange(len(text))).remainder(256).to(torch.uint8).view(-1, 1, 1)


def _common(first: list[int], second: list[int]) -> int:
    return next(
        (index for index, (ours, theirs) in enumerate(zip(first, second, strict=False)) if ours != theirs),
        min(len(first), len(second)),
    )


def _usable(text: list[int], written: int, prompt: list[int], num_common: int) -> int:
    shared = _common(text, prompt)
    goes_back = shared == num_common and written - shared <= UNDOABLE
    return shared if shared == len(text) or goes_back else 0
