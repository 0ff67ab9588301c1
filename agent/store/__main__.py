"""Looks after a store: ``python -m agent.store migrate|export|purge --store URL``."""

import argparse
import asyncio
import os
import platform
import sys
from collections.abc import Sequence

from agent.errors import SettingsError, StoreError, StoreUnavailable, UnknownProject
from agent.store.blobs import ADDRESS_VARIABLE
from agent.store.export import Export
from agent.store.open import add_store_option, migrate, open_store
from agent.store.retention import Retention
from agent.store.secrets import secret_box_of


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 where the store cannot do what was asked; what went wrong is on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        asyncio.run(_do(arguments))
    except (SettingsError, StoreError, StoreUnavailable, UnknownProject) as error:
        print(f"cannot {arguments.command}: {error}", file=sys.stderr)  # noqa: T201 - a command's own error
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m agent.store", description="Look after a store.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("migrate", "Make the tables, or bring them up to date; programs of the release before may go on."),
        ("export", "Print everything a project has, one JSON object a line."),
        ("purge", "Delete a project and everything it has, but for the audit log."),
    ):
        command = commands.add_parser(name, help=text, description=text)
        add_store_option(command)
        if name != "migrate":
            command.add_argument("--project", required=True, metavar="ID")
            if name == "export":
                command.add_argument("--reasoning", action="store_true", help="With what the model thought.")
            command.add_argument("--artifacts", metavar="URL", help=f"Address of artifacts, else {ADDRESS_VARIABLE}.")
    return parser


async def _do(arguments: argparse.Namespace) -> None:
    if arguments.command == "migrate":
        await migrate(arguments.store)
        return
    artifacts = arguments.artifacts or os.environ.get(ADDRESS_VARIABLE)
    async with open_store(arguments.store, artifacts=artifacts, box=secret_box_of(os.environ)) as store:
        if arguments.command == "export":
            export = Export(store.database, arguments.project, store.artifacts)
            async for line in export.lines(reasoning=arguments.reasoning):
                print(line)  # noqa: T201 - a command's result
        else:
            num_tasks = await Retention(store.database, store.artifacts).purge(arguments.project, by=_who())
            print(f"{num_tasks} tasks deleted")  # noqa: T201


def _who() -> str:
    """An account of this machine: in a container it may have no name."""
    return f"uid {os.getuid()} at {platform.node()}"


if __name__ == "__main__":
    sys.exit(main())
