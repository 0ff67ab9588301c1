"""The entry point of ``mimo``: before there is anything to interrupt, and after it is over, Ctrl-C ends the process
without a word about our modules."""

import signal
import sys


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from agent.cli.app import main as program
    from agent.cli.failure import ExitCode

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        try:
            program()
        finally:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
