"""Files out of the pools of the package sources that this machine has, known by their sum.

An archive keeps what any release of its distribution has in one pool: Debian 12's sources have Debian 13's files too.
"""

import hashlib
import shutil
import subprocess

import httpx

_POOLS = ("pool", "pool/updates")
"""Of an archive of packages, and of one of security updates."""
_TIMEOUT_S = 60.0


class PoolError(Exception):
    """A file cannot be had here."""


def fetch(path: str, sha256: str) -> bytes:
    """The file below a pool, ``main/b/bubblewrap/...``, from whichever archive has the one of this sum.

    Raises:
        PoolError: none has.
    """
    problems = []
    for archive in _archives():
        for pool in _POOLS:
            address = f"{archive}{pool}/{path}"
            try:
                answer = httpx.get(address, timeout=_TIMEOUT_S, follow_redirects=True).raise_for_status()
            except httpx.HTTPError as error:
                problems.append(f"{address}: {error}")
                continue
            if hashlib.sha256(answer.content).hexdigest() == sha256:
                return answer.content
            problems.append(f"{address}: not what was expected by its SHA-256")
    raise PoolError(f"it cannot be fetched: {'; '.join(problems) or 'no package source is known'}")


def _archives() -> list[str]:
    if shutil.which("apt-get") is None:
        raise PoolError("it is fetched from where apt-get has its packages, and there is none here")
    asked = ("apt-get", "indextargets", "--format", "$(REPO_URI)")
    return list(dict.fromkeys(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()))
