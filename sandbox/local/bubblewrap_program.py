"""bubblewrap as it is installed: a version that is safe to use, or refused with what to do."""

import re
import shutil
import stat
import subprocess
from pathlib import Path

from sandbox.config import LocalSettings
from sandbox.errors import SandboxUnavailable

_ANSWER_TIMEOUT_S = 30.0


def find(settings: LocalSettings) -> Path:
    """The program that the settings mean.

    Raises:
        SandboxUnavailable: it is not there, too old, or set-user-id.
    """
    found = settings.bubblewrap or shutil.which("bwrap")
    if found is None:
        raise SandboxUnavailable(
            f"bwrap is not in PATH; install bubblewrap {settings.oldest_bubblewrap} or newer (Debian 13 has it), name "
            'one in the settings (sandbox.local.bubblewrap), or take sandbox.local.maker = "own"'
        )
    program = Path(found).absolute()
    if program.exists() and program.stat().st_mode & (stat.S_ISUID | stat.S_ISGID):
        raise SandboxUnavailable(f"{program} runs as another user (set-user-id); take that away: chmod ug-s {program}")
    version, oldest = _version(program), settings.oldest_bubblewrap
    if _numbers(version) < _numbers(oldest):
        raise SandboxUnavailable(
            f"{program} is bubblewrap {version}, and before {oldest} a sandbox can be left while it is made "
            "(CVE-2026-87766); install a newer one or, where your distribution has mended this one, say so "
            f"(sandbox.local.oldest_bubblewrap = '{version}')"
        )
    return program


def _version(program: Path) -> str:
    try:
        said = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=_ANSWER_TIMEOUT_S, check=False
        )
    except OSError as error:
        raise SandboxUnavailable(f"{program} cannot be run ({error.strerror}); see sandbox.local.bubblewrap") from error
    except subprocess.TimeoutExpired as error:
        raise SandboxUnavailable(f"{program} does not say its version within {_ANSWER_TIMEOUT_S:.0f} s") from error
    version = re.fullmatch(r"bubblewrap (\d+\.\d+\.\d+)\s*", said.stdout)
    if version is None:
        raise SandboxUnavailable(
            f"{program} does not say which version of bubblewrap it is; see sandbox.local.bubblewrap in the settings"
        )
    return version[1]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
