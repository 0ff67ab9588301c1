"""What a trusted issuer says of itself: OpenID Connect Discovery 1.0."""

import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from agent.api.issuers import Issuer

_TIMEOUT_S = 10.0


def issuer_client(issuer: Issuer, headers: Mapping[str, str] | None = None) -> httpx.AsyncClient:
    """For requests to the issuer, with the certificates it is known by."""
    return httpx.AsyncClient(
        headers=headers,
        verify=True if issuer.ca_file is None else ssl.create_default_context(cafile=str(issuer.ca_file)),
        timeout=_TIMEOUT_S,
        # A proxy set for the outside has no business with a service on this machine.
        trust_env=urlsplit(issuer.url).scheme == "https",
    )


async def endpoint(http: httpx.AsyncClient, issuer: Issuer, name: str) -> str:
    """An address in the issuer's discovery document, which must name the issuer it was asked of (section 4.3).

    Raises:
        httpx.HTTPError: the issuer does not answer.
        KeyError: it names no such address.
        ValueError: the document is another's, or the address is not as safe as the issuer's own.
    """
    answer = await http.get(f"{issuer.url.rstrip('/')}/.well-known/openid-configuration")
    document: dict[str, Any] = answer.raise_for_status().json()
    if document["issuer"] != issuer.url:
        raise ValueError(f"its discovery document is that of {document['issuer']!r}")
    url = str(document[name])
    if urlsplit(url).scheme != urlsplit(issuer.url).scheme:
        raise ValueError(f"its {name} is {url!r}, which is not as safe as the issuer's own address")
    return url
