"""A worker process: ``python -m agent.orchestrator --store URL --data DIR``."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from pydantic import ValidationError

from agent.config import ModelSettings, model_settings
from agent.errors import SettingsError, StoreError
from agent.integrations.addresses import MCP_NETWORKS_VARIABLE, allowed_networks
from agent.integrations.remote import reach_of
from agent.open_files import allow_most_files
from agent.orchestrator.app import open_worker
from agent.orchestrator.settings import WorkerSettings
from agent.store.base import DELIVERIES_KEPT_FOR
from agent.store.blobs import ADDRESS_VARIABLE
from agent.store.open import add_store_option
from agent.store.secrets import secret_box_of
from agent.telemetry import open_telemetry
from sandbox.backends import NAMES
from sandbox.config import sandbox_settings
from sandbox.errors import SandboxUnavailable

_PARENT_POLL_S = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 after a signal, 1 where the store or the sandbox cannot be used, 2 for bad settings."""
    arguments = _parser().parse_args(argv)
    try:
        settings = _settings(arguments)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        print(f"unusable settings: {problems}", file=sys.stderr)  # noqa: T201 - a command's own error
        return 2
    except SandboxUnavailable as error:
        print(f"unusable settings: {error}", file=sys.stderr)  # noqa: T201
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)
    allow_most_files()
    parent = os.getppid() if arguments.exit_with_parent else None
    try:
        asyncio.run(_work(settings, parent))
    except (StoreError, SettingsError, SandboxUnavailable) as error:
        print(f"cannot start: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    fields = WorkerSettings.model_fields
    parser = argparse.ArgumentParser(
        prog="python -m agent.orchestrator",
        description="Work on the tasks of a store until SIGTERM, which gives unfinished ones back.",
        epilog="The model's key comes from MIMO_MODEL_API_KEY, the settings of sandboxes from the TOML file that "
        "MIMO_SANDBOX_SETTINGS names.",
    )
    add_store_option(parser)
    parser.add_argument("--data", required=True, metavar="DIR", type=Path, help=fields["data"].description)
    parser.add_argument("--artifacts", metavar="URL", help=f"{fields['artifacts'].description} Or {ADDRESS_VARIABLE}.")
    parser.add_argument("--model-url", metavar="URL", help="OpenAI-compatible endpoint, up to and including /v1.")
    parser.add_argument("--model", metavar="NAME", help="Model asked for where a task names none.")
    parser.add_argument("--probe-every", metavar="S", type=float, help=fields["probe_every_s"].description)
    parser.add_argument("--sandbox", choices=NAMES, default="local", help=fields["backend"].description)
    parser.add_argument(
        "--registry",
        metavar="URL",
        help=f"{fields['registry'].description} By itself, a server that is the store, or else a file in DIR.",
    )
    parser.add_argument("--concurrency", metavar="N", type=int, default=1, help=fields["concurrency"].description)
    parser.add_argument("--lease-ttl", metavar="S", type=float, default=15.0, help=fields["lease_ttl_s"].description)
    parser.add_argument("--tidy-every", metavar="S", type=float, default=600.0, help=fields["tidy_every_s"].description)
    parser.add_argument(
        "--keep-deliveries",
        metavar="DAYS",
        type=int,
        default=DELIVERIES_KEPT_FOR.days,
        help=fields["deliveries_kept_days"].description,
    )
    parser.add_argument("--monitor", metavar="HOST:PORT", help=fields["monitor"].description)
    parser.add_argument("--exit-with-parent", action="store_true", help="Stop when the process that started this ends.")
    return parser


def _settings(arguments: argparse.Namespace) -> WorkerSettings:
    model = model_settings(os.environ)
    given = {"url": arguments.model_url, "name": arguments.model}
    return WorkerSettings(
        store=arguments.store,
        artifacts=arguments.artifacts or os.environ.get(ADDRESS_VARIABLE) or None,
        data=arguments.data.absolute(),
        model=ModelSettings.model_validate(model.model_dump() | {k: v for k, v in given.items() if v is not None}),
        waits_for_model=True,
        probe_every_s=arguments.probe_every,
        monitor=arguments.monitor,
        registry=arguments.registry or _registry(arguments.store, arguments.data.absolute()),
        backend=arguments.sandbox,
        sandbox=sandbox_settings(os.environ),
        tries_sandboxes=True,
        concurrency=arguments.concurrency,
        lease_ttl_s=arguments.lease_ttl,
        tidy_every_s=arguments.tidy_every,
        deliveries_kept_days=arguments.keep_deliveries,
    )


def _registry(store: str, data: Path) -> str:
    """Where all workers of the store find each other's sandboxes."""
    return store if store.startswith("postgresql") else f"sqlite:///{data}/sandboxes.db"


async def _work(settings: WorkerSettings, parent: int | None) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    watching = asyncio.ensure_future(_watch_parent(parent, stopping)) if parent is not None else None
    try:
        async with AsyncExitStack() as stack:
            telemetry = await stack.enter_async_context(open_telemetry(os.environ, settings.model.name))
            opening = open_worker(
                settings,
                secret_box=secret_box_of(os.environ),
                reach=reach_of(os.environ),
                mcp_networks=allowed_networks(os.environ, MCP_NETWORKS_VARIABLE),
                telemetry=telemetry,
            )
            worker = await stack.enter_async_context(opening)
            logging.getLogger(__name__).info("action=start worker=%s", settings.worker_id)
            await worker.run(stopping)
    finally:
        if watching is not None:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching


async def _watch_parent(parent: int, stopping: asyncio.Event) -> None:
    while os.getppid() == parent:  # noqa: ASYNC110 - nobody tells us
        await asyncio.sleep(_PARENT_POLL_S)
    stopping.set()


if __name__ == "__main__":
    sys.exit(main())
