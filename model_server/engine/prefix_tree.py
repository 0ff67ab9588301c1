"""Which prefixes have their keys and values in memory, and from where a sequence can go on.

A radix tree over token ids. Its nodes hold the pages of the global layers, which any sequence with these tokens may
read. Window layers keep only a ring of the newest positions, so a sequence can go on only where a *snapshot* of all
rings was taken, or a little before: a ring holds more positions than a window, and the newest can be taken back. A
match therefore ends at the last such point of the longest common prefix, and what lies behind it is run again.

Snapshots and leaves leave in the order of their last use. A node in use by a running sequence is locked; the sequence
holds its pages by itself, so the lock is about worth, not about safety. What nobody locks has a snapshot or parts
paths; other nodes are joined to what follows, or dropped if nothing does.

Pure bookkeeping: numbers of pages and ring slots, and the experts that tokens used; no keys or values.
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor, cat

from model_server.engine.hidden_tail import HiddenTail
from model_server.engine.pages import PageAllocator, SlotAllocator
from model_server.engine.routes import Routes
from model_server.kernels.batch import PAGE


@dataclass(slots=True)
class Snapshot:
    """A sequence's rings and hidden states as they were at the end of a node's tokens; never written again."""

    slot: int
    written: int
    """One past the last position written to them; see :attr:`model_server.engine.sequence.SequenceCache.written`."""
    hidden: HiddenTail
    """Of the newest tokens."""


@dataclass(eq=False, slots=True)
class Node:
    """Tokens ``start`` to ``end`` - 1 of every path through it."""

    ids: "array[int]"
    start: int
    pages: list[int]
    """Those that hold the tokens, the first of them from its beginning on."""
    experts: Tensor
    """uint8 [tokens, M, K]"""
    parent: "Node | None"
    children: "dict[int, Node]" = field(default_factory=dict)
    """By their first token."""
    snapshot: Snapshot | None = None
    num_locks: int = 0

    @property
    def end(self) -> int:
        return self.start + len(self.ids)


@dataclass(frozen=True, slots=True)
class Match:
    """How much of a prompt need not be run."""

    num_tokens: int
    pages: list[int]
    """Of those tokens. If the last is not full others may write to it, and it must be copied."""
    node: Node
    """Its snapshot is the one to go on from; to be locked meanwhile."""
    snapshot: Snapshot
    experts: Tensor
    """uint8 [num_tokens, M, K]"""


class PrefixTree:
    """Holds pages and slots through the allocators it shares with everybody else."""

    def __init__(self, pages: PageAllocator, slots: SlotAllocator, max_snapshots: int, num_undoable: int) -> None:
        """``num_undoable``: positions before the last written one, so many a ring can go back; see ``ring_size``."""
        self._pages = pages
        self._slots = slots
        self._max_snapshots = max_snapshots
        self._num_undoable = num_undoable
        self._roots: dict[str, Node] = {}
        """By salt: nothing is shared across."""
        self._by_use: OrderedDict[Node, None] = OrderedDict()
        """Nodes with a snapshot, the one used longest ago first."""

    @property
    def num_snapshots(self) -> int:
        return len(self._by_use)

    @property
    def has_room(self) -> bool:
        """Whether snapshots are kept at all."""
        return self._max_snapshots > 0

    def match(self, salt: str, prompt: "array[int]") -> tuple[int, Match | None]:
        """How many tokens of ``prompt`` but its last the tree has pages of, and how many need not be run."""
        root = self._roots.get(salt)
        path, num_common = ([], 0) if root is None else _walk(root, prompt[:-1])
        node = self._best(path, num_common) if num_common else None
        if node is None or node.snapshot is None:
            return num_common, None
        self._by_use.move_to_end(node)
        num_tokens = min(node.end, num_common)
        held = [step for step in path if step.start < num_tokens]
        return num_common, Match(num_tokens, _pages(held, num_tokens), node, node.snapshot, _experts(held, num_tokens))

    def insert(self, salt: str, ids: "array[int]", pages: "array[int]", routes: Routes) -> Node:
        """Take in a prefix: ``pages`` and ``routes`` are those of ``ids`` at least. The node at its end, locked.

        What the tree already has of it keeps the pages it has.
        """
        root = self._roots.get(salt)
        if root is None:
            root = self._roots[salt] = Node(array("i"), 0, [], routes.view(0, 0), None)
        path, num_common = _walk(root, ids)
        node = path[-1]
        if node.end > num_common:
            node = self._split(node, num_common)
        if num_common < len(ids):
            news = list(pages[num_common // PAGE : -(-len(ids) // PAGE)])
            self._pages.hold(news, running=False)
            experts = routes.view(num_common, len(ids))
            child = Node(ids[num_common:], num_common, news, experts, node)
            node.children[child.ids[0]] = child
            node = child
        if node.snapshot is not None:
            self._by_use.move_to_end(node)
        node.num_locks += 1
        return node

    def take_slot(self) -> int:
        """A ring slot for one more snapshot; the one used longest ago leaves for it if need be."""
        if len(self._by_use) >= self._max_snapshots:
            self._evict_snapshot()
        slot = self._slots.take()
        assert slot is not None
        return slot

    def attach(self, node: Node, snapshot: Snapshot) -> None:
        """Give a locked node its snapshot, whose slot the tree now holds. Others leave if there are too many."""
        assert node.snapshot is None
        assert node.num_locks
        node.snapshot = snapshot
        self._by_use[node] = None
        while len(self._by_use) > self._max_snapshots:
            self._evict_snapshot()

    def lock(self, node: Node) -> None:
        node.num_locks += 1

    def unlock(self, node: Node) -> None:
        node.num_locks -= 1
        assert node.num_locks >= 0
        self._tidy(node)

    def evict_leaf(self) -> bool:
        """Give up the unlocked leaf used longest ago. False if there is none."""
        node = next((node for node in self._by_use if not node.children and not node.num_locks), None)
        if node is None:
            return False
        self._drop_snapshot(node)
        return True

    def clear(self) -> None:
        """Give up everything that is not locked."""
        while self.evict_leaf():
            pass

    def nodes(self) -> Iterator[Node]:
        """All nodes but the roots."""
        waiting = list(self._roots.values())
        while waiting:
            node = waiting.pop()
            if node.parent is not None:
                yield node
            waiting += node.children.values()

    def _best(self, path: list[Node], num_common: int) -> Node | None:
        """The node whose snapshot spares most of a prompt that shares ``num_common`` tokens with the path.

        Behind them is a snapshot as good as one at their end, if its rings can go back so far.
        """
        waiting = [path[-1]]
        while waiting:
            node = waiting.pop()
            snapshot = node.snapshot
            if snapshot is not None and snapshot.written - num_common <= self._num_undoable:
                return node
            if node.end - num_common < self._num_undoable:
                waiting += node.children.values()
        return next((node for node in reversed(path) if node.snapshot is not None and node.end <= num_common), None)

    def _split(self, node: Node, position: int) -> Node:
        """Part a node in two; returns the new upper one. Locks stay with the lower one."""
        assert node.parent is not None
        length = position - node.start
        last = -(-position // PAGE) - node.start // PAGE
        upper = Node(node.ids[:length], node.start, node.pages[:last], node.experts[:length].clone(), node.parent)
        shared = node.pages[position // PAGE - node.start // PAGE : last]
        self._pages.hold(shared, running=False)  # a page with tokens of both
        node.parent.children[upper.ids[0]] = upper
        node.pages = [*shared, *node.pages[last:]]
        node.ids, node.start, node.experts = node.ids[length:], position, node.experts[length:].clone()
        node.parent = upper
        upper.children[node.ids[0]] = node
        return upper

    def _tidy(self, node: Node) -> None:
        """Join or drop a node that serves nobody."""
        parent = node.parent
        if parent is None:
            if not node.children:
                self._roots = {name: root for name, root in self._roots.items() if root is not node}
        elif node.snapshot is None and not node.num_locks:
            if not node.children:
                self._pages.release(node.pages, running=False)
                del parent.children[node.ids[0]]
                self._tidy(parent)
            elif len(node.children) == 1:
                self._join(node, parent)

    def _join(self, node: Node, parent: Node) -> None:
        """Put a node's tokens before those of its only child."""
        (child,) = node.children.values()
        own = child.start // PAGE - node.start // PAGE
        self._pages.release(node.pages[own:], running=False)  # of a page with tokens of both, the child's has them all
        child.pages = [*node.pages[:own], *child.pages]
        child.ids, child.start = node.ids + child.ids, node.start
        child.experts = cat((node.experts, child.experts))
        child.parent = parent
        parent.children[child.ids[0]] = child

    def _evict_snapshot(self) -> None:
        self._drop_snapshot(next(iter(self._by_use)))

    def _drop_snapshot(self, node: Node) -> None:
        assert node.snapshot is not None
        self._slots.release(node.snapshot.slot)
        node.snapshot = None
        del self._by_use[node]
        self._tidy(node)


def _walk(root: Node, ids: "array[int]") -> tuple[list[Node], int]:
    """The nodes that share tokens with ``ids``, and the number of tokens shared; the root shares none."""
    path, position = [root], 0
    while position < len(ids):
        child = path[-1].children.get(ids[position])
        if child is None:
            break
        path.append(child)
        position += _num_equal(child.ids, ids[position : position + len(child.ids)])
        if position < child.end:
            break
    return path, position


def _num_equal(ours: "array[int]", theirs: "array[int]") -> int:
    """Length of the common prefix, by halving: comparing arrays costs little."""
    if ours == theirs:
        return len(ours)
    low, high = 0, min(len(ours), len(theirs))
    while low < high:
        middle = (low + high + 1) // 2
        if ours[low:middle] == theirs[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _pages(path: list[Node], num_tokens: int) -> list[int]:
    """Of a page with tokens of two nodes, the second one's has them all."""
    pages: list[int] = []
    for node in path:
        pages[node.start // PAGE :] = node.pages
    return pages[: -(-num_tokens // PAGE)]


def _experts(path: list[Node], num_tokens: int) -> Tensor:
    return cat([node.experts for node in path])[:num_tokens]
