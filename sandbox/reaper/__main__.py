"""Ends sandboxes by hand: ``python -m sandbox.reaper --backend docker --older-than 2h``.

Prints each sandbox it ends, and waits until the machines no longer hold it. Exit code 0: all are gone; 1: some are
not, or the machines do not answer; 2: wrong arguments.
"""

import argparse
import asyncio
import re
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from sandbox.backends import NAMES, open_backend
from sandbox.config import SandboxSettings
from sandbox.errors import SandboxError
from sandbox.inventory import Found, Inventory
from sandbox.reaper.reaper import end
from sandbox.registry import open_registry

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LOOK_S = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.run is not None and arguments.registry is None:
        parser.error("--run needs --registry: which sandbox a run has stands there")
    if arguments.run is None and arguments.older_than is None and not arguments.all:
        parser.error("say which: --older-than, --run or --all")
    try:
        return asyncio.run(_reap(arguments))
    except (SandboxError, OSError, ValueError) as error:
        _say(f"cannot reap: {error}")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.reaper",
        description="End sandboxes by age, by run, or all. Given several, a sandbox must meet each.",
    )
    parser.add_argument("--backend", choices=NAMES, required=True, help="Whose sandboxes.")
    parser.add_argument("--settings", metavar="FILE", type=Path, help="Sandbox settings as JSON, if not the usual.")
    parser.add_argument("--older-than", metavar="AGE", type=_age_s, help="Such as 90s, 30m, 2h or 1d.")
    parser.add_argument("--run", metavar="ID", help="Those that were given to this run.")
    parser.add_argument("--all", action="store_true", help="All of this service's.")
    parser.add_argument("--registry", metavar="URL", help="Address of the registry of sandboxes, as in the settings.")
    parser.add_argument("--dry-run", action="store_true", help="Say which, and end none.")
    parser.add_argument("--wait", metavar="S", type=float, default=60.0, help="How long to wait until they are gone.")
    return parser


async def _reap(arguments: argparse.Namespace) -> int:
    settings = SandboxSettings()
    if arguments.settings is not None:
        settings = SandboxSettings.model_validate_json(arguments.settings.read_text("utf-8"))
    async with AsyncExitStack() as stack:
        backend = open_backend(arguments.backend, settings)
        stack.push_async_callback(backend.close)
        assert isinstance(backend, Inventory), backend.name
        of_run: set[str] | None = None
        if arguments.run is not None:
            registry = await stack.enter_async_context(open_registry(arguments.registry))
            of_run = {record.id for record in await registry.all() if record.run == arguments.run}
        chosen = _choose(await backend.found(), arguments.older_than, of_run)
        for id_, why in chosen.items():
            _say(f"{id_}: {why}")
        return 0 if arguments.dry_run else await _end(backend, chosen, arguments.wait)


def _choose(found: Sequence[Found], older_than_s: float | None, of_run: set[str] | None) -> dict[str, str]:
    now = time.time()
    return {
        each.id: f"{now - each.created_at:.0f} s old"
        for each in found
        if now - each.created_at > (older_than_s or 0) and (of_run is None or each.id in of_run)
    }


async def _end(inventory: Inventory, chosen: Mapping[str, str], wait_s: float) -> int:
    """Ask for their end, again and again, until they are gone."""
    give_up = time.monotonic() + wait_s
    left = dict(chosen)
    while left:
        await end(inventory, left)
        there = {each.id for each in await inventory.found()}
        left = {id_: why for id_, why in left.items() if id_ in there}
        if left and time.monotonic() > give_up:
            _say(f"still there: {', '.join(left)}")
            return 1
        await asyncio.sleep(_LOOK_S if left else 0)
    _say(f"{len(chosen)} ended")
    return 0


def _age_s(text: str) -> float:
    parsed = re.fullmatch(r"(\d+)([smhd])", text)
    if parsed is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age such as 90s, 30m, 2h or 1d")
    return float(parsed[1]) * _UNITS_S[parsed[2]]


def _say(text: str) -> None:
    print(text)  # noqa: T201  # a command's own output


if __name__ == "__main__":
    sys.exit(main())
