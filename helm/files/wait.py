"""Wait until a folder has all of a revision, which somebody else fetches: wait.py REVISION FOLDER."""

import sys
import time
from itertools import count
from pathlib import Path

revision, folder = sys.argv[1:]
done = Path(folder, ".revision")
for pause in count():
    if done.exists() and done.read_text() == revision:
        break
    if pause % 60 == 0:
        print(f"{folder} has not all of {revision} yet; the log of the Job for weights says why", flush=True)
    time.sleep(5)
