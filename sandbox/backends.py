"""Name -> backend. The only place that knows which backends there are."""

from sandbox.config import SandboxSettings
from sandbox.errors import SandboxUnavailable
from sandbox.types import Backend

NAMES = ("local", "docker", "kubernetes")


def open_backend(name: str, settings: SandboxSettings) -> Backend:
    """The backend called ``name``; its module is imported only now.

    Raises:
        SandboxUnavailable: there is no such backend, or what it needs is not installed.
    """
    if name == "local":
        from sandbox.local.backend import LocalBackend

        return LocalBackend(settings)
    if name == "docker":
        try:
            from sandbox.docker.backend import DockerBackend
        except ModuleNotFoundError as error:
            raise SandboxUnavailable(
                f"the backend 'docker' needs the package {error.name}; install mimo-coder[docker]"
            ) from error
        return DockerBackend(settings)
    if name == "kubernetes":
        try:
            from sandbox.kubernetes.backend import KubernetesBackend
        except ModuleNotFoundError as error:
            raise SandboxUnavailable(
                f"the backend 'kubernetes' needs the package {error.name}; install mimo-coder[kubernetes]"
            ) from error
        return KubernetesBackend(settings)
    raise SandboxUnavailable(f"there is no sandbox backend {name!r}; choose one of: {', '.join(NAMES)}")
