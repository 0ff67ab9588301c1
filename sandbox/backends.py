"""Name -> backend. The only place that knows which backends there are."""

from sandbox.config import SandboxSettings
from sandbox.errors import SandboxUnavailable
from sandbox.types import Backend

NAMES = ("local",)


def open_backend(name: str, settings: SandboxSettings) -> Backend:
    """The backend called ``name``; its module is imported only now.

    Raises:
        SandboxUnavailable: there is no such backend.
    """
    if name == "local":
        from sandbox.local import LocalBackend

        return LocalBackend(settings)
    raise SandboxUnavailable(f"there is no sandbox backend {name!r}; choose one of: {', '.join(NAMES)}")
