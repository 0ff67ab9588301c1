"""Numbers of pages and ring slots: which are free, and how many hold each of the others. No tensors."""

from collections.abc import Iterable


class PageAllocator:
    """Pages 0 to ``num_pages`` - 1, each free or held by some: by sequences that run, which need it now, and by what is
    kept for later.

    The page freed last is given first, so that memory which was touched once is used again.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.num_running = 0
        """Pages that sequences hold which run."""
        self._free = list(range(num_pages - 1, -1, -1))
        self._running = [0] * num_pages
        self._kept = [0] * num_pages

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_pages - len(self._free)

    def take(self, count: int) -> list[int]:
        """Free pages, so many being left, now held by one running sequence."""
        assert count <= len(self._free), (count, len(self._free))
        taken = [self._free.pop() for _ in range(count)]
        for page in taken:
            self._running[page] = 1
        self.num_running += count
        return taken

    def hold(self, pages: Iterable[int], *, running: bool) -> None:
        """One more holder of each."""
        for page in pages:
            assert self._running[page] or self._kept[page], page
            if running:
                self.num_running += not self._running[page]
                self._running[page] += 1
            else:
                self._kept[page] += 1

    def release(self, pages: Iterable[int], *, running: bool) -> None:
        """One holder less of each; without any, a page is free."""
        for page in pages:
            if running:
                self._running[page] -= 1
                self.num_running -= not self._running[page]
            else:
                self._kept[page] -= 1
            assert self._running[page] >= 0, page
            assert self._kept[page] >= 0, page
            if not self._running[page] and not self._kept[page]:
                self._free.append(page)


class SlotAllocator:
    """Ring slots 0 to ``num_slots`` - 1, each free or held once."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots - 1, -1, -1))

    @property
    def num_used(self) -> int:
        return self.num_slots - len(self._free)

    def take(self) -> int | None:
        """A free slot, if there is one."""
        return self._free.pop() if self._free else None

    def release(self, slot: int) -> None:
        assert slot not in self._free, slot
        self._free.append(slot)
