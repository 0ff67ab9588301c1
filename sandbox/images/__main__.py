"""Bring images in for local sandboxes.

python -m sandbox.images add FILE [--name NAME]    an image as docker save writes it, or an OCI image layout
python -m sandbox.images list
"""

import argparse
import sys
from pathlib import Path

from sandbox.config import SandboxSettings
from sandbox.errors import SandboxError
from sandbox.images.store import ImageStore


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox.images", description="Images of local sandboxes.")
    parser.add_argument("--folder", type=Path, default=SandboxSettings().image_folder(), help="where images are kept")
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="bring in an image as docker save writes it, or an OCI image layout")
    add.add_argument("file", type=Path)
    add.add_argument("--name", action="append", default=[], help="call it so, and not as the file does")
    commands.add_parser("list", help="show what is here")
    wanted = parser.parse_args(arguments)
    store = ImageStore(wanted.folder)
    if wanted.command == "list":
        for name, digest in sorted(store.names().items()):
            print(name, digest)  # noqa: T201
        return 0
    try:
        image, names = store.add(wanted.file, tuple(wanted.name))
    except (SandboxError, OSError) as error:
        print(f"{wanted.file} is not brought in: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(*names, image.id)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
