# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A balancer fails, and another one with the same declaration has its addresses: established connections go on there,
though no state was copied."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from kernel_lab import server, traffic
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.topology import VIP, VIP6, WEB6
from kernel_lab.traffic import Answer

HALF = 100
FAMILIES = {
    "ipv4": ({"backends": webs(port=8080)}, f"{VIP}:80", "198.18.1.{}"),
    "ipv6": (
        {"listen": f"[{VIP6}]:80", "backends": [{"address": WEB6[name]} for name in WEB6]},
        f"[{VIP6}]:80",
        "2001:db8:18::{}",
    ),
}


#: The short form, which `make test` asks for, has each method and each family once.
SHORT = os.environ.get("NATLB_KERNEL") == "short"
WAYS = [
    ("source_hash", "ipv4"),
    ("flow_hash", "ipv6"),
    *([] if SHORT else [("source_hash", "ipv6"), ("flow_hash", "ipv4")]),
]


class Held(NamedTuple):
    """A connection, and who answered it."""

    handle: int
    answer: Answer


def hold(balancer: Balancer, count: int, target: str = f"{VIP}:80", client: str = "198.18.1.{}") -> list[Held]:
    """Connections of as many clients."""
    found = [
        Held(*balancer.hold(target, source=client.format(number), timeout_s=5)[0]) for number in range(1, count + 1)
    ]
    assert not any(item.answer.error for item in found)
    return found


def successor(balancer: Balancer, folder: Path) -> Balancer:
    """The balancer that has the addresses from now on. What a run leaves on the first one is not there."""
    balancer.lab.succeed()
    folder.mkdir()
    engine = f"{balancer.engine}-{balancer.variant}" if balancer.variant else balancer.engine
    return Balancer(balancer.lab, engine, folder)


def fates(held: Sequence[Held], answers: Sequence[Answer]) -> Counter[str]:
    """What became of them: `kept`, the name of the error, or that another backend answered."""
    return Counter(
        answer.error or ("kept" if answer[:5] == item.answer[:5] else "another")
        for item, answer in zip(held, answers, strict=True)
    )


def client_first(balancer: Balancer, held: Sequence[Held], timeout_s: float = 5.0) -> Counter[str]:
    """What becomes of connections whose client speaks first."""
    return fates(held, balancer.client.call(traffic.talk_on, [item.handle for item in held], timeout_s))


def backend_first(balancer: Balancer, held: Sequence[Held], timeout_s: float = 5.0) -> Counter[str]:
    """What becomes of connections whose backend speaks first."""
    announce(balancer)
    return hear(balancer, held, timeout_s)


def announce(balancer: Balancer) -> None:
    for backend in balancer.lab.backends.values():
        backend.call(server.announce)


def hear(balancer: Balancer, held: Sequence[Held], timeout_s: float = 5.0) -> Counter[str]:
    return fates(held, balancer.client.call(traffic.hear_on, [item.handle for item in held], timeout_s))


def declared(**keys: object) -> list[Mapping]:
    return [service(**{"snat": "none", "method": "source_hash", **keys})]


@pytest.mark.parametrize(("method", "family"), WAYS)
def test_two_hundred_connections(balancer: Balancer, tmp_path: Path, method: str, family: str) -> None:
    keys, target, client = FAMILIES[family]
    services = declared(method=method, **keys)
    balancer.apply(services)
    held = hold(balancer, 2 * HALF, target, client)
    assert len({item.answer.name for item in held}) == len(WEB6)
    second = successor(balancer, tmp_path / "second")
    second.apply(services)
    # All backends speak, so those whose client is to speak first have to do so before.
    spoke = client_first(second, held[:HALF])
    heard = backend_first(second, held[HALF:])
    print(f"{balancer.engine} {family} {method}: client first {dict(spoke)}, backend first {dict(heard)}")
    assert spoke == heard == {"kept": HALF}
    assert [item["takeover"] for item in second.info()["services"]] == [True]
    # Both directions go on, and the connection ends as any other.
    for item in (held[0], held[-1]):
        second.client.call(traffic.finish, item.handle)


@pytest.mark.engines("nftables", "iptables-nft")
def test_without_it_a_backend_that_speaks_first_is_not_heard(balancer: Balancer, tmp_path: Path) -> None:
    services = declared(takeover=False)
    balancer.apply(services)
    held = hold(balancer, 20)
    second = successor(balancer, tmp_path / "second")
    second.apply(services)
    assert [item["takeover"] for item in second.info()["services"]] == [False]
    assert client_first(second, held[:10]) == {"kept": 10}
    assert backend_first(second, held[10:], 0.5) == {"TimeoutError": 10}


def test_a_host_that_is_not_loose(balancer: Balancer) -> None:
    def warned(**keys: object) -> list[str]:
        return [text for text in balancer.apply(declared(**keys)).warnings if "loose" in text]

    assert warned() == []
    balancer.host.sysctl({"netfilter/nf_conntrack_tcp_loose": 0})
    (warning,) = warned()
    assert warning.startswith("service web: net/netfilter/nf_conntrack_tcp_loose is 0 here")
    assert warned(takeover=False) == []


@pytest.mark.engines("nftables", "iptables-nft")
def test_a_service_that_keeps_another_one_from_taking_over(balancer: Balancer) -> None:
    shared = webs(port=8080)
    web = service(snat="none", method="source_hash", backends=shared)
    api = service(name="api", listen=f"{VIP}:81", snat="none", backends=shared)
    balancer.apply([web])
    for check in (True, False):
        outcome = balancer.apply([web, api], check=check)
        (warning,) = (text for text in outcome.warnings if "takeover" in text)
        assert warning.startswith("service web: takeover is off from now on")
        assert "(service api)" in warning
        assert "web: takeover on -> off (" in outcome.diff
    assert [text for text in balancer.apply([web, api]).warnings if "takeover" in text] == []
    known = {item["name"]: item for item in balancer.info()["services"]}
    assert known["web"]["takeover_reason"] in warning.replace(", or declare takeover: false", "")
    assert known["web"]["takeover"] is False


class Change(NamedTuple):
    """What is declared at first, what later, and what the balancer that takes over has."""

    first: list[Mapping]
    later: list[Mapping]
    new: list[Mapping]


def drained(*names: str) -> list[Mapping]:
    return [{**item, "state": "drained" if item["name"] in names else "active"} for item in webs(port=8080)]


ALL = webs(port=8080)
#: Of 100 connections whose client speaks first those that are reset, with nftables and with iptables.
LOST = {
    "drained meanwhile": (0, 13),
    "two drained meanwhile": (0, 25),
    "drained on the first one only": (0, 13),
    "drained on the new one only": (0, 26),
    "added meanwhile": (0, 13),
    "added on the new one only": (0, 26),
    "heavier meanwhile": (0, 19),
}
CHANGES = {
    "drained meanwhile": Change(ALL, drained("web2"), drained("web2")),
    "two drained meanwhile": Change(ALL, drained("web2", "web3"), drained("web2", "web3")),
    "drained on the first one only": Change(ALL, drained("web2"), ALL),
    "drained on the new one only": Change(ALL, ALL, drained("web2")),
    "added meanwhile": Change(ALL[:3], ALL, ALL),
    "added on the new one only": Change(ALL[:3], ALL[:3], ALL),
    "heavier meanwhile": Change(ALL, [{**ALL[0], "weight": 3}, *ALL[1:]], [{**ALL[0], "weight": 3}, *ALL[1:]]),
}


@pytest.mark.parametrize("change", ["drained meanwhile", "added on the new one only"] if SHORT else CHANGES)
def test_a_change_before_or_with_it(balancer: Balancer, tmp_path: Path, change: str) -> None:
    """Clients are the same in each run, so their slots are, too."""
    first, later, new = CHANGES[change]
    balancer.apply(declared(backends=first))
    held = hold(balancer, HALF)
    balancer.apply(declared(backends=later))
    held += hold(balancer, HALF)
    second = successor(balancer, tmp_path / "second")
    second.apply(declared(backends=new))
    spoke = client_first(second, held[::2])
    heard = backend_first(second, held[1::2])
    print(f"{balancer.engine} {change}: client first {dict(spoke)}, backend first {dict(heard)}")
    assert heard == {"kept": HALF}
    lost = LOST[change][not balancer.nftables]
    assert spoke == Counter({"kept": HALF - lost, "ConnectionResetError": lost})


def test_a_connection_that_nobody_knows_is_reset(balancer: Balancer, tmp_path: Path) -> None:
    services = declared(backends=ALL)
    balancer.apply(services)
    held = hold(balancer, 20)
    second = successor(balancer, tmp_path / "second")
    for backend in balancer.lab.backends.values():
        backend.run("ss", "--kill", "--tcp", "state", "connected")
    second.apply(services)
    assert client_first(second, held) == {"ConnectionResetError": 20}


@pytest.mark.parametrize("speaks_first", ["client", "backend"])
def test_megabytes_go_on(balancer: Balancer, tmp_path: Path, speaks_first: str) -> None:
    """The kernel knows nothing of the scale of windows that both ends have agreed on."""
    services = declared(backends=ALL)
    balancer.apply(services)
    held = hold(balancer, 2)
    second = successor(balancer, tmp_path / "second")
    second.apply(services)
    if speaks_first == "backend":
        assert backend_first(second, held) == {"kept": 2}
    size = 8 << 20
    for item in held:
        assert second.client.call(traffic.pour, item.handle, size) >= size // server.CHUNK


def test_what_goes_on_is_no_new_connection(balancer: Balancer, tmp_path: Path) -> None:
    services = declared(method="flow_hash", backends=ALL)
    balancer.apply(services)
    held = [Held(*item) for item in balancer.hold(f"{VIP}:80", 20, source="198.18.1.1")]
    second = successor(balancer, tmp_path / "second")
    second.apply([{**item, "new_connections_per_second": 1} for item in services])
    assert client_first(second, held) == {"kept": 20}
    # For those that begin, the limit holds.
    assert second.tally(count=5, sources=["198.18.1.1"])["ConnectionRefusedError"] >= 3
