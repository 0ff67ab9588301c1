"""What the sandbox raises. A failing *command* is never an exception: it is an :class:`~sandbox.types.Outcome`.

SandboxError                 a machine failed, not a command
├── SandboxLost              the sandbox is gone; whatever ran in it is gone too
│   ├── SandboxEvicted       its machine needed the room, or it took more than its own
│   ├── MachineLost          the machine it was on is gone
│   ├── SandboxTaken         somebody of a later term has it now; what ran in it goes on, for them
│   └── LifetimeOver         it was ended when its lifetime was over
├── SandboxUnavailable       no backend can start a sandbox here; the message says what to install
│   └── NoRoom               not now: there is no room for another, or nobody answers; ask again later
├── NotStarted               the sandbox is there, and nothing of the command ran: it may be asked again
├── Overdue                  there was no room before the deadline; nothing ran
├── CheckpointDamaged        the store no longer has the checkpoint whole
└── SandboxRejected          the request breaks a rule of the sandbox (path outside, too large)
    ├── UnknownImage         there is no such image here
    ├── ImageMismatch        there is one of that name, and it is not the one asked for
    └── UnknownCheckpoint    there is no such checkpoint in the store
"""


class SandboxError(Exception):
    """A machine failed, not a command."""


class SandboxLost(SandboxError):
    """The sandbox is gone; whatever ran in it is gone too."""


class SandboxEvicted(SandboxLost):
    """The machine needed the room, or the sandbox took more than its own; another one may be asked for."""


class MachineLost(SandboxLost):
    """The machine it was on is gone; another one may be asked for."""


class SandboxTaken(SandboxLost):
    """Somebody of a later term has it now, and whatever runs in it."""


class LifetimeOver(SandboxLost):
    """It was ended when its lifetime was over; ask for a longer one."""


class SandboxUnavailable(SandboxError):
    """No backend can start a sandbox on this machine; the message says what to install or change."""


class NoRoom(SandboxUnavailable):
    """Not now: there is no room for another sandbox, or whoever makes them does not answer. Ask again later."""


class NotStarted(SandboxError):
    """The sandbox is there and nothing of the command ran, so that it may be asked again."""


class Overdue(SandboxError):
    """The call could not begin in time to be of use, so it did not; nothing ran."""


class SandboxRejected(SandboxError):
    """The request breaks a rule of the sandbox, such as a path outside it or a file over the size bound."""


class UnknownImage(SandboxRejected):
    """There is no such image here; the message says how to get it."""


class ImageMismatch(SandboxRejected):
    """The image of that name is not the one whose digest was asked for."""


class UnknownCheckpoint(SandboxRejected):
    """There is no such checkpoint in the store."""


class CheckpointDamaged(SandboxError):
    """The store no longer has the checkpoint as it was saved."""
