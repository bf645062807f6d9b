# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Transactions of `delta.py` as messages of the kernel, where they change no more than what backends' health changes.

nft lists all chains and sets of the host before it begins, which takes longer than the change. Here the text of a
transaction becomes messages by itself. It has to consist of commands that are understood here, to the last word:

    add, delete element    of maps whose keys and data are addresses, protocols, ports, numbers and verdicts
    flush, add, delete chain
    add rule               that is a `goto`, or translates by a slot map, or was in that chain before

For any other text there are no messages, and it is for nft. So is a text that the kernel refuses.

Rules that match packets are not composed here, but taken as nft has loaded them. That is so of a rule that its chain
has already. To the one that translates, each slot map has another (`SlotMap.first`) that differs from it by what
picks the slot alone.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Optional

from ..host import netlink
from ..host.netlink import APPEND, CREATE, Message, attribute, nested, text
from ..packets import Family, family_named
from ..ruleset.sections import Key, Ruleset
from .names import slot_map
from .text import TABLE

# include/uapi/linux/netfilter.h and netfilter/nf_tables.h of the kernel.
_FAMILIES: dict[Family, int] = {"ip": 2, "ip6": 10}
_NEWCHAIN, _DELCHAIN, _NEWRULE, _DELRULE, _NEWSETELEM, _DELSETELEM = 3, 5, 6, 8, 12, 14
_CHAIN_TABLE, _CHAIN_NAME = 1, 3
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 2, 4
_ELEMENTS_TABLE, _ELEMENTS_SET, _ELEMENTS, _ELEMENT = 1, 2, 3, 1
_KEY, _DATA, _VALUE, _VERDICT = 1, 2, 1, 2
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_DROP, _GOTO = 0, 0xFFFFFFFC
_EXPRESSION, _EXPRESSION_NAME, _EXPRESSION_DATA = 1, 1, 2
_IMMEDIATE_REGISTER, _IMMEDIATE_DATA, _REGISTER_OF_VERDICTS = 1, 2, 0
_NUMGEN_MODULUS, _NUMGEN_TYPE, _NUMGEN_OFFSET = 2, 3, 4
_PICKS = {"inc": 0, "random": 1}

#: An attribute holds 64 KiB at most.
_ELEMENTS_OF_A_MESSAGE = 400

_BE16 = struct.Struct(">H")
#: What one field of a key or of data is made of, by the name that a declaration has for it.
_FIELDS: Mapping[str, Callable[[str], bytes]] = {
    **dict.fromkeys(("ipv4_addr", "ip daddr"), lambda field: socket.inet_pton(socket.AF_INET, field)),
    **dict.fromkeys(("ipv6_addr", "ip6 daddr"), lambda field: socket.inet_pton(socket.AF_INET6, field)),
    **dict.fromkeys(("inet_service", "tcp dport", "udp dport", "sctp dport"), lambda field: _BE16.pack(int(field))),
    "inet_proto": lambda field: struct.pack("B", int(field)),
    # Numbers that the kernel makes itself are in its own order of bytes.
    "numgen random mod 65536": lambda field: struct.pack("=I", int(field)),
}

_COMMAND = re.compile(rf"(add|delete|flush) (element|chain|rule) (ip6?) {TABLE} (\S+)(?: (.*))?")
_TRANSLATION = re.compile(r"dnat (.* \. )numgen (inc|random) mod (\d+)(?: offset (\d+))? map @(\S+)")

#: The rules of a chain as the kernel has them, by family and name of the chain; None where there is no such chain.
LiveRules = Callable[[Family, str], Optional[Sequence[bytes]]]


class NotUnderstoodError(Exception):
    """There is something in the text that only nft can make."""


class Composer:
    """Makes messages of texts. `known` is what is live, as rendered; `rules` asks the kernel for that of a chain."""

    def __init__(self, known: Ruleset, rules: LiveRules) -> None:
        self._known = known
        self._rules = rules
        self._translations: dict[tuple[Family, str, str], list[tuple[str, bytes]]] = {}

    def messages(self, transaction: str) -> list[Message]:
        """The messages of one transaction. Raises `NotUnderstoodError`."""
        return [message for line in transaction.splitlines() for message in self._of_command(line)]

    def _of_command(self, line: str) -> Iterator[Message]:
        match = _COMMAND.fullmatch(line)
        if match is None:
            raise NotUnderstoodError(line)
        verb, what, _family, name, rest = match.groups()
        family = family_named(match[3])
        number = _FAMILIES[family]
        if what == "element" and verb != "flush" and rest:
            kind, flags = (_NEWSETELEM, CREATE) if verb == "add" else (_DELSETELEM, 0)
            for body in self._elements(family, name, rest):
                yield Message(kind, number, body, flags)
        elif what == "chain" and rest is None:
            of_rule = text(_RULE_TABLE, TABLE) + text(_RULE_CHAIN, name)
            of_chain = text(_CHAIN_TABLE, TABLE) + text(_CHAIN_NAME, name)
            yield {
                "flush": Message(_DELRULE, number, of_rule),
                "add": Message(_NEWCHAIN, number, of_chain, CREATE),
                "delete": Message(_DELCHAIN, number, of_chain),
            }[verb]
        elif what == "rule" and verb == "add" and rest:
            body = text(_RULE_TABLE, TABLE) + text(_RULE_CHAIN, name) + self._expressions(family, name, rest)
            yield Message(_NEWRULE, number, body, CREATE | APPEND)
        else:
            raise NotUnderstoodError(line)

    # -- elements ----------------------------------------------------------------------------------------------

    def _elements(self, family: Family, name: str, braced: str) -> Iterator[bytes]:
        section = self._known.get(Key(family, TABLE, "map", name))
        if section is None or any(line.startswith("flags") for line in section.header):
            raise NotUnderstoodError(f"elements of {name}")
        types = section.header[0].partition(" ")[2]
        keys, _colon, data = types.partition(" : ")
        head = text(_ELEMENTS_TABLE, TABLE) + text(_ELEMENTS_SET, name)
        elements = braced.removeprefix("{ ").removesuffix(" }").split(", ")
        for start in range(0, len(elements), _ELEMENTS_OF_A_MESSAGE):
            some = elements[start : start + _ELEMENTS_OF_A_MESSAGE]
            yield head + nested(_ELEMENTS, *(_element(element, keys.split(" . "), data) for element in some))

    # -- rules -------------------------------------------------------------------------------------------------

    def _expressions(self, family: Family, chain: str, rule: str) -> bytes:
        if re.fullmatch(r"goto \S+", rule):
            register = attribute(_IMMEDIATE_REGISTER, struct.pack(">I", _REGISTER_OF_VERDICTS))
            verdict = nested(_IMMEDIATE_DATA, _verdict(rule))
            return nested(_RULE_EXPRESSIONS, _expression("immediate", register, verdict))
        match = _TRANSLATION.fullmatch(rule)
        if match is None:
            return self._kept(family, chain, rule)
        same, pick, modulus, offset, slots = match.groups()
        numbers = {_NUMGEN_MODULUS: int(modulus), _NUMGEN_TYPE: _PICKS[pick], _NUMGEN_OFFSET: int(offset or 0)}
        return nested(
            _RULE_EXPRESSIONS,
            *(
                _expression(name, _picking(content, numbers) if name == "numgen" else content)
                for name, content in self._translation(family, slots, same)
            ),
        )

    def _kept(self, family: Family, chain: str, rule: str) -> bytes:
        """The expressions of a rule that the chain has already. A set in braces goes with its rule, and counters would
        not begin anew."""
        known = self._known.get(Key(family, TABLE, "chain", chain))
        if known is None or rule not in known.body or "{" in rule or "counter" in rule:
            raise NotUnderstoodError(rule)
        rules = self._rules(family, chain) or []
        if len(rules) != len(known.body):
            raise NotUnderstoodError(rule)
        return nested(_RULE_EXPRESSIONS, netlink.attributes(rules[known.body.index(rule)])[_RULE_EXPRESSIONS])

    def _translation(self, family: Family, slots: str, same: str) -> list[tuple[str, bytes]]:
        """Name and content of the expressions of the rule that translates by this slot map."""
        if (family, slots, same) not in self._translations:
            named = slot_map(slots)
            if named is None:
                raise NotUnderstoodError(slots)
            chain = named.first
            known = self._known.get(Key(family, TABLE, "chain", chain))
            rules = self._rules(family, chain) or []
            found = list(_listed_expressions(rules[0])) if len(rules) == 1 else []
            model = f"dnat {same}numgen random mod 1 map @{slots}"
            if known is None or known.body != (model,) or [name for name, _content in found].count("numgen") != 1:
                raise NotUnderstoodError(f"rule of {chain}")
            self._translations[family, slots, same] = found
        return self._translations[family, slots, same]


def _element(element: str, keys: Sequence[str], kind: str) -> bytes:
    key, _colon, data = element.partition(" : ")
    parts = [nested(_KEY, attribute(_VALUE, _fields(key, keys)))]
    if kind == "verdict":
        parts.append(nested(_DATA, _verdict(data)))
    elif kind:
        parts.append(nested(_DATA, attribute(_VALUE, _fields(data, kind.split(" . ")))))
    return nested(_ELEMENT, *parts)


def _fields(value: str, kinds: Sequence[str]) -> bytes:
    """Where there are several, each is padded to four bytes."""
    fields = value.split(" . ")
    if len(fields) != len(kinds) or not all(kind in _FIELDS for kind in kinds):
        raise NotUnderstoodError(value)
    try:
        packed = [_FIELDS[kind](field) for field, kind in zip(fields, kinds)]
    except (OSError, ValueError, struct.error):
        raise NotUnderstoodError(value) from None
    return packed[0] if len(packed) == 1 else b"".join(field + bytes(-len(field) % 4) for field in packed)


def _verdict(words: str) -> bytes:
    if words == "drop":
        return nested(_VERDICT, attribute(_VERDICT_CODE, struct.pack(">I", _DROP)))
    if not re.fullmatch(r"goto \S+", words):
        raise NotUnderstoodError(words)
    code = attribute(_VERDICT_CODE, struct.pack(">I", _GOTO))
    return nested(_VERDICT, code, text(_VERDICT_CHAIN, words.partition(" ")[2]))


def _expression(name: str, *content: bytes) -> bytes:
    return nested(_EXPRESSION, text(_EXPRESSION_NAME, name), nested(_EXPRESSION_DATA, *content))


def _listed_expressions(rule: bytes) -> Iterator[tuple[str, bytes]]:
    for _kind, expression in netlink.listed(netlink.attributes(rule).get(_RULE_EXPRESSIONS, b"")):
        found = netlink.attributes(expression)
        yield found[_EXPRESSION_NAME].rstrip(b"\0").decode(), found.get(_EXPRESSION_DATA, b"")


def _picking(content: bytes, numbers: Mapping[int, int]) -> bytes:
    """What picks a slot, with other numbers."""
    return b"".join(
        attribute(kind, struct.pack(">I", numbers[kind]) if kind in numbers else value)
        for kind, value in netlink.listed(content)
    )
