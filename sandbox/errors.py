"""What the sandbox raises. A failing *command* is never an exception: it is an :class:`~sandbox.types.Outcome`.

SandboxError                 a machine failed, not a command
├── SandboxLost              the sandbox is gone; whatever ran in it is gone too
├── SandboxUnavailable       no backend can start a sandbox here; the message says what to install
├── NotStarted               the sandbox is there, and nothing of the command ran: it may be asked again
├── Overdue                  there was no room before the deadline; nothing ran
└── SandboxRejected          the request breaks a rule of the sandbox (path outside, too large)
    ├── UnknownImage         there is no such image here
    └── ImageMismatch        there is one of that name, and it is not the one asked for
"""


class SandboxError(Exception):
    """A machine failed, not a command."""


class SandboxLost(SandboxError):
    """The sandbox is gone; whatever ran in it is gone too."""


class SandboxUnavailable(SandboxError):
    """No backend can start a sandbox on this machine; the message says what to install or change."""


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
