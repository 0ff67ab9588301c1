"""The entry point of ``mimo``: a Ctrl-C while its modules are read ends it without a word about them."""

import signal


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from agent.cli.app import main as program

    signal.signal(signal.SIGINT, signal.default_int_handler)
    program()
