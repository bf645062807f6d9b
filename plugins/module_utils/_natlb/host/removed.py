# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What rules and elements of nf_tables had counted when they were taken away.

The kernel tells of each that goes, with its counter, once no packet can meet it any more (nf_tables_commit). A reading
before the commit would miss the packets until then.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Callable, NamedTuple

from . import netlink, nf_tables
from .commits import joined
from .netlink import NF_TABLES, attributes

#: Of the socket; a large change takes many services away at once. Memory is taken only as it fills.
_ROOM = 64 << 20
_LARGEST = 1 << 18
_SO_RCVBUFFORCE = 33
_RULE_GONE, _ELEMENT_GONE = NF_TABLES << 8 | 8, NF_TABLES << 8 | 14
_TABLE, _NAME = 1, 2
_ELEMENTS = 3
_EXPRESSIONS = 4
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_COUNTER_PACKETS = 2


class Rule(NamedTuple):
    """A rule that had counted packets. `expressions` are name and undecoded content of each."""

    table: str
    chain: str
    packets: int
    expressions: list[tuple[str, bytes]]


class Removed(NamedTuple):
    """Key, data and packets of elements, by table and map, and rules."""

    elements: dict[tuple[str, str], list[tuple[bytes, bytes, int]]]
    rules: list[Rule]


@contextlib.contextmanager
def followed() -> Iterator[Callable[[], Removed]]:
    """What is called afterwards tells what was removed meanwhile in this network namespace, by whomever: nothing where
    the kernel does not tell."""
    try:
        peer = joined()
    except OSError:
        yield lambda: Removed({}, [])
        return
    with contextlib.closing(peer):
        for option in (_SO_RCVBUFFORCE, socket.SO_RCVBUF):
            with contextlib.suppress(OSError):
                peer.setsockopt(socket.SOL_SOCKET, option, _ROOM)
                break
        yield lambda: read(_received(peer))


def _received(peer: socket.socket) -> Iterator[bytes]:
    while True:
        try:
            yield peer.recv(_LARGEST)
        except BlockingIOError:
            return
        except OSError as error:
            # More than the socket holds: the rest is told nevertheless.
            if error.errno != errno.ENOBUFS:
                raise


def read(parts: Iterator[bytes]) -> Removed:
    """Of notifications."""
    lists: dict[tuple[str, str], list[bytes]] = {}
    rules: list[Rule] = []
    for data in parts:
        for kind, body in netlink.messages(data):
            if kind == _ELEMENT_GONE:
                found = attributes(body[4:])
                lists.setdefault((_text(found, _TABLE), _text(found, _NAME)), []).append(found.get(_ELEMENTS, b""))
            elif kind == _RULE_GONE:
                rules += _rule(attributes(body[4:]))
    return Removed({place: list(nf_tables.elements(found)) for place, found in lists.items()}, rules)


def _rule(found: dict[int, bytes]) -> Iterator[Rule]:
    expressions = []
    packets = 0
    for _kind, part in netlink.listed(found.get(_EXPRESSIONS, b"")):
        own = attributes(part)
        name, data = _text(own, _EXPRESSION_NAME), own.get(_EXPRESSION_DATA, b"")
        expressions.append((name, data))
        if name == "counter":
            packets = int.from_bytes(attributes(data).get(_COUNTER_PACKETS, b""), "big")
    if packets:
        yield Rule(_text(found, _TABLE), _text(found, _NAME), packets, expressions)


def _text(found: dict[int, bytes], kind: int) -> str:
    return found.get(kind, b"").rstrip(b"\0").decode(errors="backslashreplace")
