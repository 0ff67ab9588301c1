"""Which hosts a sandbox may be let out to, as far as a spec can say it."""

import pytest
from pydantic import ValidationError

from sandbox.types import NetworkMode, SandboxSpec


@pytest.mark.parametrize(
    "host",
    [
        "packages.example.org",
        "a",
        "localhost",
        "*.files.example.org",
        "git.example.org:22",
        "*.a.b:8443",
        "xn--bcher-kva.example",
    ],
)
def test_a_host_is_a_name_perhaps_with_all_below_it_or_a_port(host):
    spec = SandboxSpec(network=NetworkMode.PROXY, allow_hosts=(host,))
    assert spec.allow_hosts == (host,)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "*",
        "*.",
        "*.org",
        "a.*.org",
        "PyPI.org",
        "bücher.example",
        "a..b",
        ".a",
        "a.",
        "-a.org",
        "a_b.org",
        "a b.org",
        "a\0.org",
        "a.org/path",
        "http://a.org",
        "user@a.org",
        "a.org:0",
        "a.org:65536",
        "a.org:+1",
        "a.org:",
        "10.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "[::1]",
        "*.0.0.1",
        "a" * 64 + ".org",
        "abcdefg." * 32 + "org",
    ],
)
def test_anything_else_is_refused(host):
    with pytest.raises(ValidationError, match=r"no host that can be allowed|allowed by name only"):
        SandboxSpec(network=NetworkMode.PROXY, allow_hosts=(host,))


def test_hosts_go_with_a_proxy_and_a_proxy_with_hosts():
    with pytest.raises(ValidationError, match="at least one"):
        SandboxSpec(network=NetworkMode.PROXY)
    for network in (NetworkMode.NONE, NetworkMode.INTERNET):
        with pytest.raises(ValidationError, match="of no other"):
            SandboxSpec(network=network, allow_hosts=("packages.example.org",))


@pytest.mark.parametrize("run_id", ["../up", "a/b", ".", "-a", "a" * 101, "a\n"])
def test_a_run_that_cannot_be_the_name_of_a_file_is_refused(run_id):
    with pytest.raises(ValidationError, match="run_id"):
        SandboxSpec(run_id=run_id)
