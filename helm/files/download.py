"""Fetch a revision of a checkpoint from the hub, unless all of it is there: download.py REPOSITORY REVISION FOLDER.

Ends with 3 where it would be in vain to try again.
"""

import shutil
import sys
from pathlib import Path
from typing import NoReturn

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile

IN_VAIN = 3
NOTES = Path(".cache", "huggingface", "download")
"""Where the hub's client keeps of which commit a file is, and what it has of those that are not whole yet."""


def main(repository: str, revision: str, folder: Path) -> None:
    done = folder / ".revision"
    if done.exists() and done.read_text() == revision:
        print(f"{folder} has {revision} already")
        return
    # Whoever waits for another revision shall not take what is half of each.
    done.unlink(missing_ok=True)
    print(f"fetching {repository} at {revision} from {constants.ENDPOINT}", flush=True)
    sizes = listed(repository, revision)
    check_room(folder, sizes)
    # What an earlier start has fetched is not fetched again; files are checked by their hashes.
    snapshot_download(repository, revision=revision, local_dir=folder, max_workers=8)
    # Where the hub cannot be reached, its client takes what lies there for what was asked.
    for path in sizes:
        note = folder / NOTES / f"{path}.metadata"
        if not note.exists() or note.read_text().partition("\n")[0] != revision:
            sys.exit(f"{path} is not of {revision} yet: the hub was lost on the way")
    done.write_text(revision)


def listed(repository: str, revision: str) -> dict[str, int]:
    """Path -> size, B."""
    try:
        tree = HfApi().list_repo_tree(repository, revision=revision, recursive=True)
        return {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}
    except RevisionNotFoundError:
        give_up(f"{repository} has no commit {revision}: name one that it has in modelServer.weights.revision")
    except RepositoryNotFoundError:
        give_up(
            f"{constants.ENDPOINT} has no {repository}, or does not show it to us: see modelServer.weights.repository, "
            "and modelServer.weights.tokenSecret"
        )


def check_room(folder: Path, sizes: dict[str, int]) -> None:
    (folder / NOTES).mkdir(parents=True, exist_ok=True)
    present = sum((folder / path).stat().st_size for path in sizes if (folder / path).exists())
    begun = sum(part.stat().st_size for part in (folder / NOTES).rglob("*.incomplete"))
    missing, free = sum(sizes.values()) - present - begun, shutil.disk_usage(folder).free
    if missing > free:
        give_up(
            f"{missing / 1e9:.3f} GB are to be fetched, and the volume has {free / 1e9:.3f} GB left: give it more, "
            "and say so in modelServer.weights.size"
        )


def give_up(reason: str) -> NoReturn:
    print(reason, file=sys.stderr)
    sys.exit(IN_VAIN)


main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
