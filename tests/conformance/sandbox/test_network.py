"""Out of a sandbox by name, and in no other way."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from sandbox.egress import EgressRecord
from sandbox.errors import SandboxLost, SandboxUnavailable
from sandbox.types import Capability, Command, NetworkMode, Resources, Sandbox, SandboxSpec
from tests.conformance.sandbox.names import PUBLIC, missing

_FIRST_PORT = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
"""On which every user may listen."""
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        os.geteuid() != 0 and _FIRST_PORT > 80, reason="needs the superuser, to listen on ports 80 and 443"
    ),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
SMALL = Resources(memory_mib=192, processes=64, disk_mib=48)

# Speaks to the proxy by hand, as nobody would who means well, and prints what came back.
SPEAK = r"""
import json, os, socket, ssl, sys
def proxy():
    link = socket.create_connection(("127.0.0.1", 13128), 10)
    link.settimeout(10)
    return link
def everything(link):
    data = b""
    try:
        while part := link.recv(65536): data += part
    except OSError as error: data += repr(error).encode()
    return data.decode("latin-1")
def raw(text):
    link = proxy(); link.sendall(text.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").encode("latin-1"))
    return everything(link)
def tunnel(target, data):
    link = proxy(); link.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        part = link.recv(1)
        if not part: break
        head += part
    if b" 200 " in head: link.sendall(data); link.shutdown(socket.SHUT_WR)
    return head.decode() + everything(link)
def hello(name):
    out = ssl.MemoryBIO()
    context = ssl.create_default_context(); context.check_hostname = False
    try: context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError: pass
    return out.read()
def reach(family, kind, protocol, target):
    try:
        with socket.socket(family, kind, protocol) as link:
            link.settimeout(1); link.connect(target); link.send(b"hello"); link.recv(10)
            return "reached"
    except OSError as error: return type(error).__name__
print(json.dumps(eval(sys.argv[1])))
"""


class Host:
    """A server that greets HTTP, and says back whatever else comes."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = await reader.read(65_536)
        self.heard.append(said)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello" if b" HTTP/1." in said else said)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def listening(address: str, *ports: int) -> AsyncIterator[Host]:
    host = Host()
    servers = [await asyncio.start_server(host.serve, address, port) for port in ports]
    try:
        yield host
    finally:
        for server in servers:
            server.close()
            await server.wait_closed()


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with listening(PUBLIC, 80, 443, 2222) as host:
        yield host


@pytest.fixture
async def forbidden() -> AsyncIterator[Host]:
    """What no sandbox may reach."""
    async with listening("127.0.0.1", 8080), listening("127.0.0.78", 80, 443) as host:
        yield host


Speak = Callable[[str], Awaitable[Any]]


@pytest.fixture
async def let_out(backend, only_with) -> AsyncIterator[Callable[..., Awaitable[tuple[Sandbox, Speak]]]]:
    """Make a sandbox that may reach some hosts, and a way to speak to the proxy in it."""
    only_with(Capability.PROXY)
    made = []

    async def let_out(*hosts: str, run_id: str = "") -> tuple[Sandbox, Speak]:
        sandbox, speak = await _made(backend, hosts, run_id)
        made.append(sandbox)
        return sandbox, speak

    yield let_out
    for sandbox in made:
        await sandbox.close()


@pytest.fixture(scope="module")
async def speak(backend) -> AsyncIterator[Speak]:
    """The same in one sandbox for all that only ask, which may reach ``allowed.test``."""
    if Capability.PROXY not in backend.capabilities:
        pytest.skip(f"the backend {backend.name} has no {Capability.PROXY}")
    sandbox, speak = await _made(backend, ("allowed.test",), "")
    yield speak
    await sandbox.close()


async def _made(backend, hosts: Sequence[str], run_id: str) -> tuple[Sandbox, Speak]:
    network = NetworkMode.PROXY if hosts else NetworkMode.NONE
    sandbox = await backend.acquire(
        SandboxSpec(resources=SMALL, network=network, allow_hosts=tuple(hosts), run_id=run_id)
    )
    await sandbox.write("/tmp/speak.py", SPEAK.encode())

    async def speak(expression: str) -> Any:
        line = f"python3 /tmp/speak.py {json.dumps(expression)}"
        outcome = await sandbox.exec(Command(line=line, request_id=os.urandom(8).hex(), timeout_s=60))
        return json.loads(outcome.output)

    return sandbox, speak


@pytest.fixture
def run_id() -> str:
    return f"run-{os.urandom(8).hex()}"


def _records(folder: Path, run_id: str) -> list[EgressRecord]:
    lines = (folder / f"{run_id}.jsonl").read_text().splitlines()
    return [EgressRecord.model_validate_json(line) for line in lines]


async def _until_recorded(folder: Path, run_id: str, count: int) -> list[EgressRecord]:
    async with asyncio.timeout(10):
        while not (folder / f"{run_id}.jsonl").exists() or len(_records(folder, run_id)) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return _records(folder, run_id)


async def test_programs_reach_an_allowed_host_without_being_told_how(let_out, host, names):
    names.known["allowed.test"] = [PUBLIC]
    sandbox, _ = await let_out("allowed.test")
    fetch = "import urllib.request as u; print(u.urlopen('http://allowed.test/path').read())"
    outcome = await sandbox.exec(Command(line=f'python3 -c "{fetch}"', request_id="fetch", timeout_s=60))
    assert outcome.output == b"b'hello'\n"
    assert b"GET /path HTTP/1.1\r\nHost: allowed.test\r\n" in host.heard[0]


async def test_who_takes_a_sandbox_over_opens_its_way_out_again(let_out, host, names, backend, only_with):
    only_with(Capability.REATTACH)
    names.known["allowed.test"] = [PUBLIC]
    sandbox, _ = await let_out("allowed.test")
    spec = SandboxSpec(resources=SMALL, network=NetworkMode.PROXY, allow_hosts=("allowed.test",))
    other = await backend.attach(sandbox.handle, spec)
    fetch = "import urllib.request as u; print(u.urlopen('http://allowed.test/path').read())"
    outcome = await other.exec(Command(line=f'python3 -c "{fetch}"', request_id="fetch", timeout_s=60))
    assert outcome.output == b"b'hello'\n"
    await other.close()


async def test_a_tunnel_is_for_tls_with_the_host_that_was_asked_for(let_out, host, names):
    names.known |= {"allowed.test": [PUBLIC], "other.test": [PUBLIC]}
    _, speak = await let_out("allowed.test", "other.test")
    assert (await speak("tunnel('allowed.test:443', hello('allowed.test'))")).count("allowed.test") == 1
    assert len(host.heard) == 1
    for data in ("hello('other.test')", "hello(None)", "b'GET / HTTP/1.1\\r\\nHost: evil\\r\\n\\r\\n'", "b''"):
        said = await speak(f"tunnel('allowed.test:443', {data})")
        assert said.startswith("HTTP/1.1 200 ")
        assert said.endswith("\r\n\r\n") or "reset" in said
    assert [heard for heard in host.heard[1:] if heard] == []


async def test_another_host_is_neither_reached_nor_looked_up(let_out, host, names):
    names.known |= {"allowed.test": [PUBLIC], "other.test": [PUBLIC], "secret.allowed.test": [PUBLIC]}
    _, speak = await let_out("allowed.test", "*.below.test")
    names.asked.clear()
    for name in ("other.test", "secret.allowed.test", "below.test", "xallowed.test"):
        assert " 403 " in await speak(f"tunnel('{name}:443', b'')")
        assert " 403 " in await speak(f"raw('GET http://{name}/ HTTP/1.1\\r\\nHost: allowed.test\\r\\n\\r\\n')")
    assert names.asked == []
    assert host.heard == []


async def test_the_name_that_was_checked_is_the_one_that_the_host_is_asked_for(speak, host, names):
    names.known["allowed.test"] = [PUBLIC]
    said = await speak("raw('GET http://allowed.test/ HTTP/1.1\\r\\nHost: evil.test\\r\\n\\r\\n')")
    assert said.startswith("HTTP/1.1 200 OK")
    assert b"Host: allowed.test\r\n" in host.heard[0]
    assert b"evil" not in host.heard[0]


async def test_a_port_that_nobody_listed_is_refused(let_out, host, names):
    names.known |= {"allowed.test": [PUBLIC], "git.test": [PUBLIC]}
    _, speak = await let_out("allowed.test", "git.test:2222")
    for target in ("allowed.test:2222", "allowed.test:80", "allowed.test:22", "git.test:443", "allowed.test:0"):
        assert " 403 " in await speak(f"tunnel('{target}', b'')")
    assert (await speak("tunnel('git.test:2222', b'anything')")).endswith("\r\n\r\nanything")


@pytest.mark.parametrize(
    "target",
    [
        "127.0.0.77",
        "2130706509",
        "127.77",
        "0x7f00004d",
        "[::1]",
        "[::ffff:127.0.0.77]",
        "169.254.169.254",
        "localhost",
    ],
)
async def test_an_address_is_no_name(target, speak, host):
    assert " 403 " in await speak(f"tunnel('{target}:443', b'')")
    assert " 403 " in await speak(f"raw('GET http://{target}/ HTTP/1.1\\r\\nHost: allowed.test\\r\\n\\r\\n')")
    assert host.heard == []


async def test_an_allowed_name_leads_to_no_private_address(let_out, forbidden, names, egress_log, run_id):
    addresses = ["127.0.0.78", "127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0"]
    names.known |= {f"n{number}.allowed.test": [address] for number, address in enumerate(addresses)}
    _, speak = await let_out("*.allowed.test", run_id=run_id)
    for number in range(len(addresses)):
        assert " 403 " in await speak(f"tunnel('n{number}.allowed.test:443', b'')")
        assert " 403 " in await speak(f"raw('GET http://n{number}.allowed.test/ HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n')")
    assert forbidden.heard == []
    records = await _until_recorded(egress_log, run_id, 2 * len(addresses))
    assert {(record.verdict, record.address) for record in records} == {("refused", "")}


async def test_what_a_name_was_a_moment_ago_does_not_count(let_out, host, forbidden, names):
    names.known["turning.test"] = [PUBLIC, "127.0.0.78"]
    _, speak = await let_out("turning.test")
    request = "raw('GET http://turning.test/ HTTP/1.1\\r\\nHost: turning.test\\r\\n\\r\\n')"
    answers = [await speak(request) for _ in range(3)]
    assert [answer.split()[1] for answer in answers] == ["200", "403", "403"]
    assert len(host.heard) == 1
    assert forbidden.heard == []


@pytest.mark.parametrize(
    "request_line",
    [
        "CONNECT allowed.test\\x00.evil.test:443 HTTP/1.1",
        "CONNECT evil.test\\x00.allowed.test:443 HTTP/1.1",
        "GET http://allowed.test\\x00.evil.test/ HTTP/1.1",
        "GET http://allowed.test@evil.test/ HTTP/1.1",
        "GET http://evil.test%00.allowed.test/ HTTP/1.1",
        "CONNECT allowed.test:443@evil.test:443 HTTP/1.1",
        "GET https://allowed.test/ HTTP/1.1",
        "GET ftp://allowed.test/ HTTP/1.1",
        "GET / HTTP/1.1",
        "\\x05\\x01\\x00",
        "\\x16\\x03\\x01",
    ],
)
async def test_a_request_with_two_meanings_has_none(request_line, speak, host, names):
    names.known |= {"allowed.test": [PUBLIC], "evil.test": [PUBLIC]}
    names.asked.clear()
    said = await speak(f"raw('{request_line}\\r\\nHost: allowed.test\\r\\n\\r\\n')")
    assert said.split()[1] in ("400", "403")
    assert "evil.test" not in " ".join(names.asked)
    assert host.heard == []


async def test_every_connection_is_recorded_with_whose_it_was(let_out, host, names, egress_log, run_id):
    names.known["allowed.test"] = [PUBLIC]
    _, speak = await let_out("allowed.test", run_id=run_id)
    await speak("tunnel('allowed.test:443', hello('allowed.test'))")
    await speak("tunnel('other.test:443', b'')")
    await speak("raw('GET http://allowed.test/ HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n')")
    tunnel, refused, plain = await _until_recorded(egress_log, run_id, 3)
    assert (tunnel.run_id, tunnel.method, tunnel.host, tunnel.port) == (run_id, "CONNECT", "allowed.test", 443)
    assert (tunnel.address, tunnel.verdict, tunnel.sent) == (f"{PUBLIC}:443", "allowed", len(host.heard[0]))
    assert tunnel.received == tunnel.sent
    assert (refused.host, refused.address, refused.verdict) == ("other.test", "", "refused")
    assert "not allowed" in refused.detail
    assert (plain.method, plain.port, plain.verdict, plain.sent) == ("GET", 80, "allowed", len(host.heard[1]))


async def test_a_connection_that_ends_with_its_sandbox_is_recorded_too(let_out, names, egress_log, run_id):
    names.known["allowed.test"] = [PUBLIC]
    held = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        held.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hold, PUBLIC, 2222):
        sandbox, _ = await let_out("allowed.test:2222", run_id=run_id)
        connect = "link = proxy(); link.sendall(b'CONNECT allowed.test:2222 HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n')"
        talk = f"{connect}\nlink.recv(99); link.sendall(b'x')\nlink.recv(1)\n"
        await sandbox.write("/tmp/hold.py", f"{SPEAK.partition('print')[0]}\n{talk}".encode())
        command = Command(line="python3 /tmp/hold.py; sleep 60", request_id="hold", timeout_s=60)
        holding = asyncio.create_task(sandbox.exec(command))
        await held.wait()
        await sandbox.close()
        with pytest.raises(SandboxLost):
            await holding
    (record,) = _records(egress_log, run_id)
    assert (record.run_id, record.verdict, record.address) == (run_id, "allowed", f"{PUBLIC}:2222")


async def test_nothing_leaves_but_through_the_proxy(speak, host, forbidden, names):
    names.known["allowed.test"] = [PUBLIC]
    port = int(names.address.partition(":")[2])
    names.asked.clear()
    for way in (
        f"socket.AF_INET, socket.SOCK_STREAM, 0, ('{PUBLIC}', 80)",
        "socket.AF_INET, socket.SOCK_STREAM, 0, ('127.0.0.1', 8080)",
        "socket.AF_INET, socket.SOCK_STREAM, 0, ('1.1.1.1', 443)",
        f"socket.AF_INET, socket.SOCK_DGRAM, 0, ('127.0.0.1', {port})",
        "socket.AF_INET, socket.SOCK_DGRAM, 0, ('1.1.1.1', 53)",
        "socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP, ('1.1.1.1', 0)",
        "socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP, ('1.1.1.1', 0)",
        "socket.AF_INET6, socket.SOCK_STREAM, 0, ('::1', 80)",
        "socket.AF_INET6, socket.SOCK_STREAM, 0, ('2606:4700:4700::1111', 443)",
        "socket.AF_INET6, socket.SOCK_DGRAM, 0, ('2606:4700:4700::1111', 53)",
    ):
        assert await speak(f"reach({way})") != "reached", way
    assert host.heard == forbidden.heard == []
    assert names.asked == []


async def test_the_internet_needs_the_operators_consent(backend):
    with pytest.raises(SandboxUnavailable, match=r"network .*'internet'"):
        await backend.acquire(SandboxSpec(resources=SMALL, network=NetworkMode.INTERNET))


async def test_a_sandbox_goes_where_it_may_itself_and_not_where_another_may(let_out, host, names):
    names.known |= {"one.test": [PUBLIC], "two.test": [PUBLIC]}
    _, one = await let_out("one.test")
    _, two = await let_out("two.test")
    _, alone = await let_out()
    assert " 403 " in await one("tunnel('two.test:443', b'')")
    assert " 403 " in await two("tunnel('one.test:443', b'')")
    assert await alone("reach(socket.AF_INET, socket.SOCK_STREAM, 0, ('127.0.0.1', 13128))") == "ConnectionRefusedError"
