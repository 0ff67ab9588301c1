"""Starts a command that ends when its parent does, even if the parent is killed outright.

Run as a script, with the parent's process id and the command: ``python tether.py PID COMMAND...``. It asks the kernel
for SIGTERM at the parent's death and then becomes the command, so the process id stays the same. A script and not a
``preexec_fn``: code between fork and exec can deadlock in a process with threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # It died before the line above.
            sys.exit(0)
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
