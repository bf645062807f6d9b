# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which texts become messages of the kernel without nft. That the kernel takes them for what nft would have loaded is
tested in tests/kernel/test_made_at_once.py."""

from __future__ import annotations

import struct

import pytest
from _natlb.host.netlink import attribute, attributes, listed, nested, text
from _natlb.nftables.batch import Composer, NotUnderstoodError
from _natlb.ruleset.sections import Key, Ruleset, Section

SLOTS = "typeof ip daddr . tcp dport . numgen random mod 65536 : ip daddr . tcp dport"
KNOWN: Ruleset = {
    Key("ip", "natlb", "map", "slot_tcp"): Section((SLOTS, "counter"), ()),
    Key("ip", "natlb", "map", "service"): Section(("type ipv4_addr . inet_proto . inet_service : verdict",), ()),
    Key("ip", "natlb", "map", "service_range"): Section(
        ("type ipv4_addr . inet_proto . inet_service : verdict", "flags interval"), ()
    ),
    Key("ip", "natlb", "map", "service_interface"): Section(
        ("type ifname . ipv4_addr . inet_proto . inet_service : verdict",), ()
    ),
    Key("ip", "natlb", "chain", "first_slot_tcp"): Section(
        (), ("dnat ip to ip daddr . tcp dport . numgen random mod 1 map @slot_tcp",)
    ),
    Key("ip", "natlb", "chain", "s.web.tcp"): Section(
        (), ("ip saddr != @allow goto refuse", "update @rate { ip saddr limit rate over 1/second } goto refuse", "x")
    ),
}
NUMGEN = b"".join(attribute(kind, struct.pack(">I", value)) for kind, value in ((1, 9), (2, 1), (3, 1), (4, 0)))
#: A rule as the kernel gives it: table, chain, handle, and two expressions.
RULE = (
    text(1, "natlb")
    + text(2, "first_slot_tcp")
    + attribute(3, bytes(8))
    + nested(4, nested(1, text(1, "numgen"), nested(2, NUMGEN)), nested(1, text(1, "nat"), nested(2, text(7, "kept"))))
)


def composer(rules: int = 1) -> Composer:
    return Composer(KNOWN, lambda _family, _chain: [RULE] * rules)


@pytest.mark.parametrize(
    "line",
    [
        "add map ip natlb m { type ipv4_addr : verdict; }",
        "add chain ip natlb c { type nat hook output priority 0; }",
        "add chain ip other c",
        "delete table ip natlb",
        "add element ip natlb unknown { 1 : goto x }",
        "add element ip natlb service_range { 192.0.2.1 . 6 . 80-90 : goto x }",
        'add element ip natlb service_interface { "eth0" . 192.0.2.1 . 6 . 80 : goto x }',
        "add element ip natlb service { 192.0.2.1 . 6 . 80 : jump x }",
        "add element ip natlb service { 192.0.2.1 . 6 : goto x }",
        "add element ip natlb service { 192.0.2.1/24 . 6 . 80 : goto x }",
        "add element ip natlb service { 192.0.2.1 . 6 . 65536 : goto x }",
        "add element ip natlb slot_tcp { 192.0.2.1 . 80 . 0 : 10.0.0.3 }",
        "flush element ip natlb service { }",
        "flush rule ip natlb c x",
        "add rule ip natlb s.web.tcp tcp dport 80 accept",
        "add rule ip natlb s.web.tcp update @rate { ip saddr limit rate over 1/second } goto refuse",
        "add rule ip natlb s.web.tcp ip saddr != @allow goto refuse",
        "add rule ip natlb c dnat ip to ip daddr . tcp dport . numgen inc mod 3 map @slot_udp",
        "add rule ip natlb c dnat ip to ip saddr . tcp dport . numgen inc mod 3 map @slot_tcp",
    ],
)
def test_for_nft(line: str) -> None:
    with pytest.raises(NotUnderstoodError):
        composer().messages(f"flush chain ip natlb c\n{line}\n")


@pytest.mark.parametrize("rules", [0, 2])
def test_a_chain_that_is_not_as_rendered_is_no_model(rules: int) -> None:
    line = "add rule ip natlb c dnat ip to ip daddr . tcp dport . numgen inc mod 3 map @slot_tcp\n"
    assert composer().messages(line)
    with pytest.raises(NotUnderstoodError):
        composer(rules).messages(line)


def test_the_rule_of_the_slot_map_gets_another_pick_and_nothing_else() -> None:
    line = "add rule ip natlb s.web.tcp dnat ip to ip daddr . tcp dport . numgen inc mod 3 offset 2 map @slot_tcp\n"
    (message,) = composer().messages(line)
    found = attributes(message.body)
    assert found[2] == b"s.web.tcp\0"
    numgen, nat = [attributes(expression) for _kind, expression in listed(found[4])]
    assert [struct.unpack(">I", value)[0] for _kind, value in listed(numgen[2])] == [9, 3, 0, 2]
    assert (nat[1], attributes(nat[2])) == (b"nat\0", {7: b"kept\0"})


def test_a_rule_that_was_there_is_taken_as_it_is() -> None:
    (message,) = composer(rules=3).messages("add rule ip natlb s.web.tcp ip saddr != @allow goto refuse\n")
    assert attributes(message.body)[4] == attributes(RULE)[4]


def test_elements_are_padded_and_in_the_order_of_bytes_of_their_maker() -> None:
    (message,) = composer().messages("delete element ip natlb slot_tcp { 192.0.2.1 . 80 . 7 : 10.0.0.3 . 8080 }\n")
    ((_kind, element),) = listed(attributes(message.body)[3])
    key, data = (attributes(attributes(element)[part])[1] for part in (1, 2))
    assert key == bytes([192, 0, 2, 1, 0, 80, 0, 0]) + struct.pack("=I", 7)
    assert data == bytes([10, 0, 0, 3, 0x1F, 0x90, 0, 0])


def test_no_attribute_is_longer_than_its_length_can_say() -> None:
    elements = ", ".join(f"192.0.2.1 . 80 . {slot} : 10.0.0.3 . 8080" for slot in range(5000))
    found = composer().messages(f"add element ip natlb slot_tcp {{ {elements} }}\n")
    parts = [attributes(message.body)[3] for message in found]
    assert max(map(len, parts)) < 1 << 16
    assert sum(len(list(listed(part))) for part in parts) == 5000
