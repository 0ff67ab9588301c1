"""Which executor a run belongs to, the same one whoever asks."""

import hashlib
from collections.abc import Iterable


def choose(run: str, executors: Iterable[str]) -> str:
    """One of ``executors``: the one whose hash together with the run is highest (rendezvous hashing, Thaler and
    Ravishankar 1998). Where one comes or goes, only the runs that go to it or were with it move.
    """
    return max(executors, key=lambda name: hashlib.blake2b(f"{name}\0{run}".encode(), digest_size=8).digest())
