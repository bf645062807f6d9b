# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is typed behind `natlb trace`, and how steps are told. What they say is tested on the real kernel."""

from __future__ import annotations

from typing import Any

import pytest
from _natlb.errors import ConfigError
from _natlb.host import sysctl
from _natlb.host.tracked import Tracked
from _natlb.model.kernel_hashes import jhash, source_key
from _natlb.model.services import parse_config
from _natlb.model.source_nat import SourceNat
from _natlb.trace import bridged, decision, ownership
from _natlb.trace.question import Question, parse
from _natlb.trace.steps import Step, Trace, lines

WEB: dict[str, Any] = {"name": "web", "listen": "192.0.2.10:80", "backends": "10.0.0.3"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("198.51.100.7 192.0.2.10:80", Question("198.51.100.7", None, "192.0.2.10", 80, "tcp")),
        ("198.51.100.7:4711 192.0.2.10:53/UDP", Question("198.51.100.7", 4711, "192.0.2.10", 53, "udp")),
        ("198.51.100.7 -> 192.0.2.10:80", Question("198.51.100.7", None, "192.0.2.10", 80, "tcp")),
        ("2001:DB8::7 [2001:db8::10]:80/sctp", Question("2001:db8::7", None, "2001:db8::10", 80, "sctp")),
        ("[2001:db8::7]:9 [2001:db8::10]:80", Question("2001:db8::7", 9, "2001:db8::10", 80, "tcp")),
    ],
)
def test_what_is_typed(words: str, expected: Question) -> None:
    assert parse(words.split()) == expected
    assert parse([words]) == expected, "quoted as a whole"
    assert parse(str(expected).split()) == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("192.0.2.1 -", "the shell took the arrow for a redirection"),
        ("192.0.2.1", "names no client and target"),
        ("192.0.2.1 192.0.2.10 80", "names no client and target"),
        ("192.0.2.1 192.0.2.10", "the target: 192.0.2.10 has no port (write it like"),
        ("2001:db8::1 2001:db8::10:80", "the target: 2001:db8::10:80 has no port (an IPv6 address stands in brackets"),
        ("2001:db8::1 2001:db8:0:0:0:0:0:10:80", "is not an IP address (an IPv6 address stands in brackets"),
        ("192.0.2.1 192.0.2.10:", "is not a port"),
        ("192.0.2.1 192.0.2.10:99999", "'99999' is not a port"),
        ("192.0.2.1 [2001:db8::1]:80", "of another family"),
        ("nobody 192.0.2.10:80", "nobody"),
        ("192.0.2.1 192.0.2.10:80/icmp", "icmp"),
        ("192.0.2.1 192.0.2.0/24:80", "the target: 192.0.2.0/24:80 is a network"),
        ("192.0.2.1 192.0.2.0/24:80/udp", "and a connection has one address (name one, like 192.0.2.1:80/udp)"),
        ("2001:db8::1 [2001:db8:1::/64]:80", "(name one, like [2001:db8:1::1]:80)"),
        ("198.51.100.7/32 192.0.2.10:80", "the client: 198.51.100.7/32 is a network"),
        ("192.0.2.0/24 192.0.2.10:80", "(name one, like 192.0.2.1)"),
        ("192.0.2.1 192.0.2.999/24:80", "the protocol"),
    ],
)
def test_what_is_mistyped(words: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(words.split())
    assert said in str(caught.value)


def test_how_it_is_told() -> None:
    trace = Trace("a -> b")
    assert trace.take([Step("arrival", "ok", "comes in by eth0"), Step("mtu", "may", "is small", "clamp it")])
    assert [line.text for line in lines(trace)] == [
        "a -> b",
        "  arrival  comes in by eth0",
        "? mtu      is small",
        "           -> clamp it",
        "reachable, unless the step marked ? stops it",
    ]
    assert not trace.take([Step("route", "stops", "none leads there", "add one"), Step("backend", "ok", "never told")])
    assert [line.text for line in lines(trace)][-3:] == [
        "x route    none leads there",
        "           -> add one",
        "not reachable: stopped at route",
    ]


@pytest.mark.parametrize(
    ("count", "verdict", "words"),
    [(10, "ok", "10 of 100 connections are tracked"), (85, "may", "85 % full"), (100, "stops", "the table is full")],
)
def test_the_table_of_connections(monkeypatch: pytest.MonkeyPatch, count: int, verdict: str, words: str) -> None:
    monkeypatch.setattr(sysctl, "number", lambda name: count if name.endswith("_count") else 100)
    step = decision.room()
    assert (step.verdict, words in step.said) == (verdict, True), step


@pytest.mark.parametrize(
    ("allow", "deny", "change"),
    [
        ((), ("198.51.100.0/24",), "take 198.51.100.0/24 out of deny_from"),
        (
            (),
            ("198.51.100.0/24", "198.51.0.0/16", "203.0.113.0/24"),
            "take 198.51.100.0/24, 198.51.0.0/16 out of deny_from",
        ),
        (("203.0.113.0/24",), (), "add 198.51.100.7 to allow_from"),
        # A longer prefix goes before one that is denied, and the same one would be an error.
        (("198.51.0.0/16",), ("198.51.100.0/24",), "add 198.51.100.7 to allow_from"),
        (("198.51.100.0/24",), ("198.51.100.7/32",), "take 198.51.100.7/32 out of deny_from"),
        (
            ("203.0.113.0/24",),
            ("198.51.100.7/32",),
            "take 198.51.100.7/32 out of deny_from, and add 198.51.100.7 to allow_from",
        ),
        (
            ("198.51.0.0/16",),
            ("198.51.100.0/24", "198.51.100.7/32"),
            "take 198.51.100.7/32 out of deny_from, and add 198.51.100.7 to allow_from",
        ),
    ],
)
def test_what_lets_a_client_in(allow: tuple[str, ...], deny: tuple[str, ...], change: str) -> None:
    client = "198.51.100.7"
    assert decision.admitting(allow, deny, client) == change
    adds = [f"{client}/32"] if "add" in change else []
    left = [network for network in deny if network not in change.partition(" out of")[0]]
    after = parse_config(
        [{**WEB, **({"allow_from": [*allow, *adds]} if allow or adds else {}), **({"deny_from": left} if left else {})}]
    )
    assert after.services[0].admits(client), "the remedy is one, and no error"


TAKEN = SourceNat("masquerade", ports=(20000, 20002))


@pytest.mark.parametrize(
    ("going_on", "ended", "addresses", "verdict", "said"),
    [
        (2, 0, ["10.0.0.1"], "ok", "2 of 3 ports of 20000-20002 are taken to 10.0.0.3:80"),
        (3, 0, ["10.0.0.1"], "stops", "3 of 3 ports"),
        (2, 1, ["10.0.0.1"], "may", "3 of 3 ports"),
        (3, 0, ["10.0.0.1", "10.0.0.2"], "ok", "3 of 6 ports"),
        (0, 0, ["10.0.0.1"], "ok", "0 of 3 ports"),
    ],
)
def test_ports_that_are_left(going_on: int, ended: int, addresses: list[str], verdict: str, said: str) -> None:
    # One by another port, and one by another address.
    known = [tracked(40000, True), tracked(20000, True)._replace(seen_by=("10.0.0.9", 20000))]
    known += [tracked(20000 + number, number < going_on) for number in range(going_on + ended)]
    (step,) = ownership.used_up(TAKEN, addresses, "10.0.0.3:80", known)
    assert (step.verdict, said in step.said) == (verdict, True), step


def tracked(port: int, active: bool) -> Tracked:
    at = ("192.0.2.10", 80), ("10.0.0.3", 80)
    return Tracked("ip", "tcp", "198.51.100.7", *at, True, True, False, active, b"", b"", ("10.0.0.1", port))


CLIENT, BACKEND = "10.9.0.3", "10.9.0.4"
APART, TOGETHER = {CLIENT: "p1", BACKEND: "p2"}, {CLIENT: "p1", BACKEND: "p1"}


@pytest.mark.parametrize(
    ("backend", "ports", "hairpin", "verdict", "remedy"),
    [
        (BACKEND, APART, {"p1": False, "p2": False}, "ok", ""),
        (BACKEND, TOGETHER, {"p1": False, "p2": False}, "stops", "bridge link set dev p1 hairpin on"),
        (BACKEND, TOGETHER, {"p1": True, "p2": False}, "ok", ""),
        (CLIENT, APART, {"p1": False, "p2": True}, "stops", "bridge link set dev p1 hairpin on"),
        (CLIENT, APART, {"p1": True, "p2": False}, "ok", ""),
        # Nothing was heard of the one, or of either.
        (BACKEND, {CLIENT: "p1"}, {"p1": False, "p2": False}, "may", ""),
        (BACKEND, {}, {"p1": False, "p2": False}, "may", ""),
        (BACKEND, {}, {"p1": True, "p2": True}, "ok", ""),
        (CLIENT, {}, {"p1": False, "p2": False}, "stops", "bridge link set dev PORT hairpin on"),
        (CLIENT, {}, {"p1": False, "p2": True}, "may", "bridge link set dev PORT hairpin on"),
    ],
)
def test_bridges(backend: str, ports: dict[str, str], hairpin: dict[str, bool], verdict: str, remedy: str) -> None:
    step = bridged.judged(CLIENT, backend, "br0", ports, hairpin)
    assert (step.verdict, step.remedy) == (verdict, remedy), step


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0xDEADBEEF + 7),
        (source_key("198.18.7.1"), None),
        (source_key("2001:db8::1", 4711), None),
    ],
)
def test_hashes_are_32_bits(data: bytes, expected: int | None) -> None:
    """That they are the kernel's is tested with the kernel."""
    found = jhash(data, 7)
    assert 0 <= found < 1 << 32
    assert expected in (None, found)
