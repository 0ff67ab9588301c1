"""The API as a process of its own: ``python -m agent.api --store URL --host 0.0.0.0 --port 8080``."""

import argparse
import asyncio
import ipaddress
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import uvicorn
from pydantic import ValidationError

from agent.api.app import create_app
from agent.api.chores import at_work
from agent.api.gate import LOOPBACK_HOSTS
from agent.api.issuers import FILE_VARIABLE, IdentitySettings, identity_settings
from agent.api.server import collect_rarely, server_settings
from agent.api.streams import PER_CALLER, PER_PROJECT
from agent.api.suites import suites_folder
from agent.config import ModelSettings, model_settings
from agent.errors import SettingsError, StoreError
from agent.integrations.addresses import NETWORKS_VARIABLE, Network, allowed_networks
from agent.integrations.remote import Reach, reach_of
from agent.integrations.webhooks import Sender
from agent.open_files import allow_most_files
from agent.repository import check_repository
from agent.store.blobs import ADDRESS_VARIABLE
from agent.store.open import add_store_option, open_store
from agent.store.secrets import SecretBox, secret_box_of
from agent.store.webhooks import Webhooks
from agent.telemetry import open_telemetry

API_KEY_VARIABLE = "MIMO_API_KEY"
_STOP_S = 10
"""After SIGTERM, requests have so long to end; event streams are cut then, and their readers come back."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 where the store cannot be opened, 2 for settings that cannot be; signals end it."""
    arguments = _parser().parse_args(argv)
    api_key = os.environ.get(API_KEY_VARIABLE) or None
    try:
        identity, secret_box = identity_settings(os.environ), secret_box_of(os.environ)
        networks, model = allowed_networks(os.environ), model_settings(os.environ)
        reach = reach_of(os.environ)
    except (SettingsError, ValidationError) as error:
        print(f"cannot start: {error}", file=sys.stderr)  # noqa: T201
        return 2
    if api_key is None and not identity.issuers and not _is_loopback(arguments.host):
        remedy = f"set {API_KEY_VARIABLE} or {FILE_VARIABLE}"
        print(f"{arguments.host} can be reached by others: {remedy}", file=sys.stderr)  # noqa: T201
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for name in ("httpx", "mcp"):  # Each request that they make or answer is in the log already.
        logging.getLogger(name).setLevel(logging.WARNING)
    allow_most_files()
    try:
        asyncio.run(_serve(arguments, api_key, identity, secret_box, networks, model, reach))
    except (StoreError, SettingsError) as error:
        print(f"cannot start: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m agent.api",
        description="Serve the REST API over a store until SIGTERM. Workers are processes of their own.",
        epilog=f"The operator's key comes from {API_KEY_VARIABLE}, issuers from the file {FILE_VARIABLE} names; "
        f"{NETWORKS_VARIABLE} lists private networks that webhooks may be in.",
    )
    add_store_option(parser)
    parser.add_argument("--artifacts", metavar="URL", help=f"Where workers keep them; else {ADDRESS_VARIABLE}.")
    parser.add_argument("--host", default="127.0.0.1", help="Address to listen on; beyond loopback a key is needed.")
    parser.add_argument("--port", type=int, default=8080, help="TCP port.")
    parser.add_argument(
        "--requests-per-minute", type=_count, metavar="N", help="Most requests of one caller; without it, any number."
    )
    for whose, most in (("caller", PER_CALLER), ("project", PER_PROJECT)):
        parser.add_argument(
            f"--streams-per-{whose}",
            type=_count,
            default=most,
            metavar="N",
            help=f"Most event streams, editors and answers to chat programs of one {whose} at once (default {most}).",
        )
    return parser


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 up")
    return int(text)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


async def _serve(
    arguments: argparse.Namespace,
    api_key: str | None,
    identity: IdentitySettings,
    secret_box: SecretBox | None,
    networks: tuple[Network, ...],
    model: ModelSettings,
    reach: Reach,
) -> None:
    hosts = None if api_key or identity.issuers else LOOPBACK_HOSTS | {arguments.host}
    artifacts = arguments.artifacts or os.environ.get(ADDRESS_VARIABLE) or None
    async with (
        open_store(arguments.store, artifacts=artifacts, box=secret_box, prices=model.prices) as store,
        open_telemetry(os.environ, model.name, "mimo-api") as telemetry,
    ):
        app = create_app(
            store,
            check_repository,
            api_key=api_key,
            identity=identity,
            secret_box=secret_box,
            hosts=hosts,
            requests_per_minute=arguments.requests_per_minute,
            streams_per_caller=arguments.streams_per_caller,
            streams_per_project=arguments.streams_per_project,
            model=model,
            reach=reach,
            suites=suites_folder(os.environ),
            telemetry=telemetry,
        )
        config = server_settings(app, stop_s=_STOP_S, host=arguments.host, port=arguments.port)
        async with at_work(app, Sender(Webhooks(store.database, secret_box), allowed=networks)):
            collect_rarely()
            await uvicorn.Server(config).serve()


if __name__ == "__main__":
    sys.exit(main())
