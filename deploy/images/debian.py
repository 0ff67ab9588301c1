"""The files of Debian packages that this machine has installed: enough of a root to work in, without a mirror."""

import re
import subprocess
from pathlib import Path

from deploy.images.errors import ImageError

# Nobody reads these in a container; and of Perl the small part does that is essential in Debian.
_LEFT_OUT = re.compile(
    r"usr/share/(doc|man|info|locale|lintian|bash-completion|bug|gitweb)/|usr/(share|lib/[^/]+)/perl/"
)
_MERGED = re.compile(r"(bin|sbin|lib|lib64)/")


def files(*packages: str) -> dict[str, Path]:
    """Path inside -> file here, of these packages and all that they need."""
    found: dict[str, Path] = {}
    for line in _dpkg("dpkg-query", "--listfiles", *_closure(packages)).splitlines():
        here = Path(line)
        inside = _inside(line)
        if here.is_absolute() and (here.is_symlink() or here.is_file()) and not _LEFT_OUT.match(inside):
            found[inside] = here
    return found


def versions(*packages: str) -> dict[str, str]:
    """Name -> version, of these packages and all that they need."""
    shown = _dpkg("dpkg-query", "--show", "--showformat=${Package}\\t${Version}\\n", *_closure(packages))
    return dict(line.split("\t") for line in shown.splitlines())


def _closure(packages: tuple[str, ...]) -> list[str]:
    """With what they depend on; of several that would do, those that are installed.

    Raises:
        ImageError: one of them is not here.
    """
    needs = _dependencies()
    if absent := set(packages) - needs.keys():
        raise ImageError(
            f"packages of Debian that go into the image are not installed here: {', '.join(sorted(absent))}"
        )
    wanted, seen = list(packages), set[str]()
    while wanted:
        package = wanted.pop()
        if package not in seen and package in needs:
            seen.add(package)
            wanted += needs[package]
    return sorted(seen)


def _dependencies() -> dict[str, set[str]]:
    """Installed package -> names of what it depends on."""
    fields = "${db:Status-Abbrev}\\t${Package}\\t${Pre-Depends}, ${Depends}\\n"
    needs: dict[str, set[str]] = {}
    for line in _dpkg("dpkg-query", "--show", f"--showformat={fields}").splitlines():
        status, package, depends = line.split("\t")
        if status.startswith("ii"):
            needs[package] = set(re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9+.-]+)", depends))
    return needs


def _inside(path: str) -> str:
    """Debian names some files by links to folders (``/bin`` for ``/usr/bin``) that an image keeps as links."""
    return _MERGED.sub(r"usr/\1/", path.lstrip("/"), count=1) if _MERGED.match(path.lstrip("/")) else path.lstrip("/")


def _dpkg(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
