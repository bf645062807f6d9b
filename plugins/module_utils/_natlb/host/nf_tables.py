# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel reports about nf_tables over netlink, without the content of chains and maps."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from . import netlink, observation
from .netlink import NF_TABLES, Message, attributes, netfilter

# include/uapi/linux/netfilter.h and netfilter/nf_tables.h of the kernel.
#: Of a table; empty where nobody here knows its number.
TableFamily = Literal["ip", "ip6", "inet", "arp", "bridge", "netdev", ""]
_FAMILIES: dict[int, TableFamily] = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
NUMBERS: dict[TableFamily, int] = {name: number for number, name in _FAMILIES.items()}
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting", "ingress")
_OWN_HOOKS: dict[TableFamily, tuple[str, ...]] = {"netdev": ("ingress", "egress"), "arp": ("input", "output")}
_GETTABLE, _GETCHAIN, _GETRULE, _GETSET, _GETGEN = 1, 4, 7, 10, 16
_TABLE_NAME = 1
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_TYPE = 1, 3, 4, 7
_HOOK_NUMBER, _HOOK_PRIORITY, _HOOK_DEVICE, _HOOK_DEVICES = 1, 2, 3, 4
_SET_TABLE, _SET_NAME = 1, 2
_RULE_TABLE, _RULE_CHAIN = 1, 2
_GEN_ID = 1
_GETSETELEM = 13
_ELEMENTS_TABLE, _ELEMENTS_SET, _ELEMENTS = 1, 2, 3
_ELEMENT_KEY, _ELEMENT_DATA, _ELEMENT_EXPRESSION = 1, 2, 7
_VALUE, _EXPRESSION_DATA, _COUNTER_PACKETS = 1, 2, 2


class BaseChain(NamedTuple):
    """Where a chain of nft is hooked in. `kind` is filter, nat or route; `devices` belong to the hook ingress."""

    family: TableFamily
    table: str
    name: str
    kind: str
    hook: str
    priority: int
    devices: tuple[str, ...] = ()


def generation() -> int | None:
    """The number of the last commit in this network namespace, whoever made it; None where the kernel has no nf_tables.

    It grows with every commit of nft and of iptables-nft. Neither a listing, nor a packet, nor iptables-legacy changes
    it.
    """
    try:
        with netfilter() as kernel:
            found = attributes(kernel.ask(NF_TABLES, _GETGEN)).get(_GEN_ID, b"")
    except OSError:
        return None
    return int(struct.unpack(">I", found)[0]) if len(found) == 4 else None


def commit(messages: Iterable[Message], after: int) -> None:
    """One transaction, on top of this generation. Raises `OSError` where the kernel refuses it, and nothing is changed
    then; see `Netfilter.commit`."""
    with netfilter() as kernel:
        kernel.commit(NF_TABLES, messages, after)


def tables() -> list[tuple[TableFamily, str]]:
    """(family, name) of every table."""
    return [(_FAMILIES.get(number, ""), _text(found[_TABLE_NAME])) for number, found in _listed(_GETTABLE)]


def base_chains() -> list[BaseChain]:
    """Every base chain."""
    listed = _listed(_GETCHAIN, having=_CHAIN_HOOK)
    return [_base_chain(number, found) for number, found in listed if _CHAIN_HOOK in found]


def sets(family: TableFamily, table: str) -> list[str]:
    """The names of the sets and maps of a table, those of rules alone included. A table that is gone since has none."""
    observation.note_generation()
    name = netlink.attribute(_SET_TABLE, table.encode() + b"\0")
    try:
        with netfilter() as kernel:
            found = kernel.dump(NF_TABLES, _GETSET, name, NUMBERS[family])
            return [_text(attributes(item)[_SET_NAME]) for _family, item in found]
    except OSError:
        return []


def counting_elements(family: TableFamily, table: str, name: str) -> Iterator[tuple[bytes, bytes, int]]:
    """Key, data and counted packets of each element of a map. One that is gone since has none."""
    wanted = netlink.attribute(_ELEMENTS_TABLE, table.encode() + b"\0")
    wanted += netlink.attribute(_ELEMENTS_SET, name.encode() + b"\0")
    try:
        with netfilter() as kernel:
            found = kernel.dump(NF_TABLES, _GETSETELEM, wanted, NUMBERS[family])
    except OSError:
        return
    yield from elements(attributes(part).get(_ELEMENTS, b"") for _family, part in found)


def elements(lists: Iterable[bytes]) -> Iterator[tuple[bytes, bytes, int]]:
    """Key, data and counted packets of each element in lists of one map, as the kernel sends them."""
    # All elements of a map have one form, which is read once for each length.
    forms: dict[int, _Form | None] = {}
    for part in lists:
        for _kind, element in netlink.listed(part):
            size = len(element)
            form = forms[size] if size in forms else forms.setdefault(size, _form(element))
            if form is not None and not form.fits(element):
                form = _form(element)
            if form is not None:
                yield form.read(element)


class _Form(NamedTuple):
    """Where key, data and packets stand in an element, and what stands before key and packets."""

    key: slice
    data: slice
    packets: slice
    heads: tuple[tuple[slice, bytes], ...]

    def fits(self, element: bytes) -> bool:
        return all(element[place] == head for place, head in self.heads)

    def read(self, element: bytes) -> tuple[bytes, bytes, int]:
        return element[self.key], element[self.data], int.from_bytes(element[self.packets], "big")


def _form(element: bytes) -> _Form | None:
    """None of an element without one of these."""
    whole = slice(0, len(element))
    key = netlink.place(element, whole, _ELEMENT_KEY, _VALUE)
    data = netlink.place(element, whole, _ELEMENT_DATA, _VALUE)
    packets = netlink.place(element, whole, _ELEMENT_EXPRESSION, _EXPRESSION_DATA, _COUNTER_PACKETS)
    if key is None or data is None or packets is None:
        return None
    heads = (slice(0, key.start), slice(key.stop, data.start), slice(packets.start - 4, packets.start))
    return _Form(key, data, packets, tuple((place, element[place]) for place in heads))


def chain_names() -> set[str]:
    """The names of all chains, of every table."""
    return {_text(found[_CHAIN_NAME]) for _number, found in _listed(_GETCHAIN)}


def rules(family: TableFamily, table: str, chain: str) -> list[bytes] | None:
    """The rules of a chain, undecoded; None where there is no such chain.

    The names of chains that a rule leads to are in it, each with a zero byte behind it. So a look at a chain of some
    rules takes the time of one system call, whatever else there is.
    """
    observation.note_generation()
    names = ((_RULE_TABLE, table), (_RULE_CHAIN, chain))
    body = b"".join(netlink.attribute(kind, name.encode() + b"\0") for kind, name in names)
    try:
        with netfilter() as kernel:
            return [rule for _family, rule in kernel.dump(NF_TABLES, _GETRULE, body, NUMBERS[family])]
    except OSError:
        return None


def _listed(kind: int, having: int | None = None) -> list[tuple[int, dict[int, bytes]]]:
    """Family and attributes; nothing where the kernel has no nf_tables. Where only those `having` an attribute are
    wanted, nearly all others are left out: of ten thousand chains, ten have a hook."""
    observation.note_generation()
    headers = [struct.pack("=H", having | flag) for flag in (0, netlink.NESTED)] if having is not None else [b""]
    try:
        with netfilter() as kernel:
            found = kernel.dump(NF_TABLES, kind)
            return [(number, attributes(item)) for number, item in found if any(one in item for one in headers)]
    except OSError:
        return []


def _base_chain(number: int, found: dict[int, bytes]) -> BaseChain:
    family = _FAMILIES.get(number, "")
    hook = attributes(found[_CHAIN_HOOK])
    place, priority = struct.unpack(">I", hook[_HOOK_NUMBER])[0], struct.unpack(">i", hook[_HOOK_PRIORITY])[0]
    hooks = _OWN_HOOKS.get(family, _HOOKS)
    devices = [name for _kind, name in netlink.listed(hook.get(_HOOK_DEVICES, b""))]
    if not devices and _HOOK_DEVICE in hook:
        devices = [hook[_HOOK_DEVICE]]
    return BaseChain(
        family=family,
        table=_text(found[_CHAIN_TABLE]),
        name=_text(found[_CHAIN_NAME]),
        kind=_text(found.get(_CHAIN_TYPE, b"filter")),
        hook=hooks[place] if place < len(hooks) else "",
        priority=priority,
        devices=tuple(sorted(map(_text, devices))),
    )


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="backslashreplace")
