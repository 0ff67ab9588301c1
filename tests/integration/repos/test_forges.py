"""Hosts of pull requests that answer as no host should; a project may name any."""

import gzip
from ipaddress import ip_network

import pytest
from starlette.responses import Response

from agent.errors import RepositoryError
from agent.integrations.github import GitHub
from agent.integrations.remote import Reach
from agent.testing.serving import serving

pytestmark = pytest.mark.anyio

LOOPBACK = Reach(networks=(ip_network("127.0.0.0/8"),))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Response(b" " * 2**25), "more than 16777216 bytes"),
        (Response(gzip.compress(b"[" + b" " * 2**25 + b"]"), headers={"Content-Encoding": "gzip"}), "Invalid JSON"),
        (Response(b"[" * 99_999), "Invalid JSON"),
        (Response(b'[{"number": 7}]'), r"0\.html_url: Field required"),
        (Response(b'[{"number": 7, "html_url": "javascript:alert()"}]'), r"0\.html_url: String should match"),
        (Response(b"gone away\xff", 502), "answers 502: gone away\ufffd"),
    ],
    ids=["large", "folded", "deep", "other", "script", "refused"],
)
async def test_an_answer_that_no_host_gives_is_refused_with_what_to_look_at(answer: Response, says: str) -> None:
    with serving(answer) as port:
        host = GitHub(f"http://127.0.0.1:{port}", "acme/web", "token", LOOPBACK)
        with pytest.raises(RepositoryError, match=says):
            await host.find("mimo/repair")
