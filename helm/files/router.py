"""Start the gateway with the key of the environment: router.py ARGUMENT...

It reads its key from an argument alone, and arguments of a process are seen by all of its machine.
"""

import os
import sys

from smg.cli import main

main(["launch", f"--api-key={os.environ['MIMO_MODEL_API_KEY']}", *sys.argv[1:]])
