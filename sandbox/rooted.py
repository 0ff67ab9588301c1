"""Paths inside a folder that is to be somebody's root.

Links on the way are followed as if the folder were the root already, so none leads out of it, wherever it points.
"""

import os
from pathlib import PurePosixPath

from sandbox import linux


def folder_in(root: int, path: str) -> int:
    """Open a folder below an open one, making what is missing."""
    flags = os.O_PATH | os.O_DIRECTORY
    place = PurePosixPath("/", path)
    try:
        return linux.open_in_root(root, str(place), flags)
    except FileNotFoundError:
        parent = folder_in(root, str(place.parent))
    try:
        os.mkdir(place.name, 0o755, dir_fd=parent)
        return os.open(place.name, flags | os.O_NOFOLLOW, dir_fd=parent)
    finally:
        os.close(parent)


def file_in(root: int, path: str) -> int:
    """Open a file or folder below an open folder for others to be mounted on it; an empty file is made where it is
    missing.
    """
    place = PurePosixPath("/", path)
    try:
        return linux.open_in_root(root, str(place), os.O_PATH)
    except FileNotFoundError:
        parent = folder_in(root, str(place.parent))
    try:
        os.close(os.open(place.name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=parent))
        return os.open(place.name, os.O_PATH | os.O_NOFOLLOW, dir_fd=parent)
    finally:
        os.close(parent)
