"""python -m deploy.vm [--timeout SECONDS] -- COMMAND...    or    python -m deploy.vm --fetch

Runs a command in this folder under Debian's kernel and control groups version 2. It sees this machine's files as they
are, and what it writes is gone afterwards. Exits as the command does. ``--fetch`` gets the kernel, once, into the cache
of the user, and runs nothing.
"""

import argparse
import sys

from deploy.vm.kernel import VmError, fetch
from deploy.vm.machine import run


def main() -> int | str:
    parser = argparse.ArgumentParser(prog="python -m deploy.vm", description=__doc__)
    parser.add_argument("--timeout", type=float, default=3600.0, help="end it after so many seconds")
    parser.add_argument("--fetch", action="store_true", help="get the kernel, and run nothing")
    parser.add_argument("command", nargs="*", help="what to run, behind --")
    arguments = parser.parse_args()
    if arguments.fetch == bool(arguments.command):
        parser.error("give a command behind --, or --fetch")
    try:
        if arguments.fetch:
            fetch()
            return 0
        return run(arguments.command, timeout_s=arguments.timeout, output=sys.stdout)
    except VmError as error:
        return f"deploy.vm: {error}"


if __name__ == "__main__":
    sys.exit(main())
