# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A balancer fails, and another one with the same declaration has its addresses: established connections go on there,
though no state was copied."""

from __future__ import annotations

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
    for backend in balancer.lab.backends.values():
        backend.call(server.announce)
    return fates(held, balancer.client.call(traffic.hear_on, [item.handle for item in held], timeout_s))


def declared(**keys: object) -> list[Mapping]:
    return [service(**{"snat": "none", "method": "source_hash", **keys})]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["source_hash", "flow_hash"])
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
