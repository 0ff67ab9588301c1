"""Where backends do not answer alike, and why each of these answers is no way out."""

from collections.abc import Iterator
from dataclasses import dataclass

LOCAL = ("local-root", "local-user", "local-bubblewrap")
CONTAINERS = ("docker", "kubernetes")


@dataclass(frozen=True, slots=True)
class Difference:
    attempt: str
    steps: tuple[str, ...]
    """What the names of its steps begin with."""
    backends: tuple[str, ...]
    answers: tuple[str, ...]
    reason: str


DIFFERENCES = (
    Difference("kernel.setuid", ("uid", "gid", "own"), LOCAL, ("EINVAL",), "its user namespace has no superuser"),
    Difference("kernel.terminal", ("own",), LOCAL, ("OSError",), "there are no terminals in it"),
    Difference(
        "files.groups", ("own", "/sys"), CONTAINERS, ("EACCES", "EROFS"), "it sees its own groups, and cannot write"
    ),
    Difference("files.superuser", ("",), ("kubernetes",), ("ENOENT",), "the image has no such program"),
    Difference("network.udp", ("",), ("kubernetes",), ("EPERM",), "its fence drops what is sent without connecting"),
    Difference("network.icmp", ("ping 127.",), ("docker",), ("done",), "that is its own loopback, and does answer"),
    Difference(
        "processes.first",
        ("fd", "task/1/fd"),
        ("local-user",),
        ("done",),
        "made by the superuser without privilege, it shares that user's id, which may count the descriptors of the "
        "first process: not open them, nor learn where they lead",
    ),
    Difference("processes.first", ("",), ("local-user",), ("EPERM",), "as above: refused one step later"),
    Difference(
        "processes.bend",
        ("oom_score_adj", "coredump_filter", "clear_refs", "comm"),
        ("local-user",),
        ("done", "EINVAL"),
        "as above: it may have the kernel end its own first process sooner, which ends nothing but the sandbox",
    ),
)


def accepted(attempt: str, step: str, backend: str) -> set[str]:
    """The answers that this backend may give beside those of all."""
    return {answer for each in _for(attempt, backend) if step.startswith(each.steps) for answer in each.answers}


def _for(attempt: str, backend: str) -> Iterator[Difference]:
    return (each for each in DIFFERENCES if each.attempt == attempt and backend in each.backends)
