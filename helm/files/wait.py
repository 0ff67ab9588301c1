"""Wait until a folder has all of a revision, which somebody else fetches: wait.py REVISION FOLDER."""

import sys
import time
from pathlib import Path

revision, folder = sys.argv[1:]
done = Path(folder, ".revision")
while not (done.exists() and done.read_text() == revision):
    time.sleep(5)
