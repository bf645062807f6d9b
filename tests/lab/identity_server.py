"""A backend that says who it is.

Every answer is one line, `NAME PEER`: this host's name and the address that the connection came from. TCP port 9000
says it at once and closes, UDP port 9000 answers every datagram with it, and TCP port 8080 speaks HTTP. There its
version, LAB_VERSION of its environment, stands in the header, and at `/version` instead of the line. Connections to TCP
ports 9001 and 9002 stay open: it says it at once, for each line that it hears, and whenever it gets SIGUSR1.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket

HTTP_PORT = 8080
RAW_PORT = 9000
KEPT_PORTS = (9001, 9002)
BACKLOG = 4096
NAME = os.environ.get("LAB_NAME") or socket.gethostname()
VERSION = os.environ.get("LAB_VERSION", "1")
#: A version that does not start.
BROKEN = "broken"


def identity(peer: str) -> bytes:
    """The answer to a peer, IPv4-mapped addresses printed as the IPv4 addresses they are."""
    return f"{NAME} {peer.removeprefix('::ffff:')}\n".encode()


async def answer_raw(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speak first, then close: the shape of protocols such as SMTP and SSH."""
    writer.write(identity(writer.get_extra_info("peername")[0]))
    await finish(writer)


async def answer_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request of any kind and path, then close."""
    try:
        request = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
        writer.close()
        return
    asked_version = request.split(b" ")[1:2] == [b"/version"]
    body = f"{VERSION}\n".encode() if asked_version else identity(writer.get_extra_info("peername")[0])
    head = f"HTTP/1.1 200 OK\r\nServer: identity/{VERSION}\r\nContent-Type: text/plain\r\n"
    head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    await finish(writer)


_kept: set[asyncio.StreamWriter] = set()


def speak_up() -> None:
    """Say it to all who listen."""
    for writer in _kept:
        writer.write(identity(writer.get_extra_info("peername")[0]))


async def answer_kept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Stay until the client ends it."""
    line = identity(writer.get_extra_info("peername")[0])
    _kept.add(writer)
    try:
        writer.write(line)
        while await reader.readline():
            writer.write(line)
            await writer.drain()
    except ConnectionError:
        pass
    _kept.discard(writer)
    writer.close()


async def finish(writer: asyncio.StreamWriter) -> None:
    """Send what is left and close; a client that went away is none of our business."""
    try:
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    except ConnectionError:
        pass


class UdpIdentity(asyncio.DatagramProtocol):
    """Answers each datagram from the address it was sent to."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, _data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(identity(addr[0]), addr)


def dual_stack(kind: socket.SocketKind, port: int) -> socket.socket:
    """A socket on all addresses of both families."""
    sock = socket.socket(socket.AF_INET6, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", port))
    sock.setblocking(False)
    return sock


def tell_systemd(state: str) -> None:
    """What sd_notify(3) does, so that whoever waits for the unit finds the ports open."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(state.encode(), address)


async def main() -> None:
    """Serve until killed."""
    if VERSION == BROKEN:
        raise SystemExit(f"version {VERSION} does not start")
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(UdpIdentity, sock=dual_stack(socket.SOCK_DGRAM, RAW_PORT))
    servers = [
        await asyncio.start_server(answer_http, sock=dual_stack(socket.SOCK_STREAM, HTTP_PORT), backlog=BACKLOG),
        await asyncio.start_server(answer_raw, sock=dual_stack(socket.SOCK_STREAM, RAW_PORT), backlog=BACKLOG),
        *[
            await asyncio.start_server(answer_kept, sock=dual_stack(socket.SOCK_STREAM, port), backlog=BACKLOG)
            for port in KEPT_PORTS
        ],
    ]
    loop.add_signal_handler(signal.SIGUSR1, speak_up)
    tell_systemd("READY=1")
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(main())
