"""Fetch a revision of a checkpoint from the hub, unless all of it is there: download.py REPOSITORY REVISION FOLDER."""

import sys
from pathlib import Path

from huggingface_hub import snapshot_download

repository, revision, folder = sys.argv[1:]
done = Path(folder, ".revision")
if done.exists() and done.read_text() == revision:
    print(f"{folder} has {revision} already")
else:
    # Whoever waits for another revision shall not take what is half of each.
    done.unlink(missing_ok=True)
    # What an earlier start has fetched is not fetched again; files are checked by their hashes.
    snapshot_download(repository, revision=revision, local_dir=folder, max_workers=8)
    done.write_text(revision)
