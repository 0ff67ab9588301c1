"""Where a request may go that a user asked for: to the public internet, never into the service's own network."""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from agent.errors import SettingsError

logger = logging.getLogger(__name__)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""Leads to the IPv4 address in its last 32 bits (RFC 6052)."""


NETWORKS_VARIABLE = "MIMO_WEBHOOK_NETWORKS"
MCP_NETWORKS_VARIABLE = "MIMO_MCP_NETWORKS"


def allowed_networks(environment: Mapping[str, str], variable: str = NETWORKS_VARIABLE) -> tuple[Network, ...]:
    """The networks that a variable lists, with commas between: there requests may go, though they are not public.

    Raises:
        SettingsError: one of them is none.
    """
    names = [name.strip() for name in environment.get(variable, "").split(",") if name.strip()]
    try:
        return tuple(map(ipaddress.ip_network, names))
    except ValueError as error:
        raise SettingsError(f"{variable}: {error}; write networks like 10.0.0.0/8") from error


class ForbiddenAddress(Exception):
    """A name leads to where no request may go, or nowhere. Users read it, so it does not say which: they would learn
    the names of the service's own network. The service's log does."""


async def resolve(host: str, port: int, allowed: tuple[Network, ...] = (), *, plain: bool = False) -> str:
    """An address of ``host``, to connect to instead of the name: a second look-up could say another.

    Args:
        allowed: networks that requests may go to although they are not public.
        plain: whoever listens on the way can read and change what is said.

    Raises:
        ForbiddenAddress: one of the name's addresses is not public, or there is none; or ``plain`` is said to a public
            one. One is enough: which of them a later look-up would give is up to whoever owns the name.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        logger.info("action=forbid host=%r reason=%r", host, str(error))
        raise _not_public(host) from error
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    for address in addresses:
        if not is_public(address) and not any(address in network for network in allowed):
            logger.info("action=forbid host=%r reason=%r", host, f"it leads to {address}")
            raise _not_public(host)
    if plain and is_public(addresses[0]):
        raise ForbiddenAddress(f"{host} is public: it is called by https or ssh only")
    return str(addresses[0])


def _not_public(host: str) -> ForbiddenAddress:
    return ForbiddenAddress(f"{host} has no address on the public internet, or not only such")


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet, also where it only stands for another."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)
