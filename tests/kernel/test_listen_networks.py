# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services on networks: whatever address a client asks for, on its way through this host. Which of several services
takes a packet is in `test_precedence.py`."""

from __future__ import annotations

from collections import Counter

import pytest
from _natlb.cli import single_file
from kernel_lab import traffic
from kernel_lab.balancer import Balancer, service, webs
from kernel_lab.topology import BACK, CLIENT, CLIENT6, FRONT, FRONT6, VIP, WEB, WEB6
from test_boot import reboot
from test_redispatch import attempts, dead, who

#: Anybody's, behind the default route of the client, which is the balancer.
FAR, FARTHER, FAR6 = "203.0.113.7", "198.51.100.200", "2001:db8:99::7"
NOBODY = Counter({"TimeoutError": 1})
EVERYTHING = {4: "0.0.0.0/0", 6: "[::/0]"}
REFUSED = Counter({"ConnectionRefusedError": 1})


def own(balancer: Balancer, target: str, **options: object) -> Counter[str]:
    """Who answers the balancer itself."""
    return traffic.tally(traffic.Answer(*item) for item in balancer.host.call(traffic.ask, target, **options))


def gateway(*names: str, version: int = 4, **keys: object) -> dict[str, object]:
    addresses = WEB if version == 4 else WEB6
    keys.setdefault("backends", [{"name": name, "address": addresses[name]} for name in names])
    keys.setdefault("listen", f"{EVERYTHING[version]}:80")
    return {"name": "gateway", **keys}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("snat", ["masquerade", "none"])
def test_whatever_address_on_this_port(balancer: Balancer, version: int, snat: str) -> None:
    declared = [gateway("web1", "web2", version=version, snat=snat)]
    balancer.apply(declared, transit="accept")
    assert not balancer.apply(declared, transit="accept").changed
    client, far = (CLIENT, FAR) if version == 4 else (CLIENT6, f"[{FAR6}]")
    found = balancer.ask(f"{far}:80", 4)
    assert Counter(answer.name for answer in found) == {"web1": 2, "web2": 2}
    assert {answer.peer == client for answer in found} == {snat == "none"}
    front = FRONT if version == 4 else f"[{FRONT6}]"
    assert set(balancer.tally(f"{front}:80", 2)) == {"web1", "web2"}
    web = WEB["web3"] if version == 4 else f"[{WEB6['web3']}]"
    assert balancer.tally(f"{web}:8080") == {"web3": 1}, "another port goes on as it was sent"


@pytest.mark.parametrize("version", [4, 6])
def test_what_this_host_sends_is_no_clients(balancer: Balancer, version: int) -> None:
    """Health checks of a backend at the same port, above all. To an address of its own it is one."""
    balancer.apply([gateway("web1", version=version)])
    web, front = (WEB["web3"], FRONT) if version == 4 else (f"[{WEB6['web3']}]", f"[{FRONT6}]")
    assert own(balancer, f"{web}:80") == {"web3": 1}
    assert own(balancer, f"{front}:80") == {"web1": 1}
    balancer.apply([gateway(version=version)])
    assert own(balancer, f"{web}:80") == {"web3": 1}, "nor is it refused"
    assert own(balancer, f"{front}:80") == REFUSED
    assert balancer.tally(f"{web}:80") == REFUSED


def test_loopback_stays_the_hosts_own(balancer: Balancer) -> None:
    balancer.apply([gateway("web1")])
    assert own(balancer, "127.0.0.1:80") == REFUSED


def test_an_interface_keeps_backends_out(balancer: Balancer) -> None:
    """This host is the gateway of the backends. Without `interface`, what they send to others comes back to them."""
    inside = balancer.lab.backends["web2"]
    result = balancer.apply([gateway("web1")])
    assert any("if this host is their gateway" in warning for warning in result.warnings), result.warnings
    assert inside.call(traffic.ask, f"{CLIENT}:80")[0][0] == "web1"
    result = balancer.apply([gateway("web1", interface="front")], transit="accept")
    assert not any("gateway" in warning for warning in result.warnings), result.warnings
    assert inside.call(traffic.ask, f"{CLIENT}:80")[0][0] == "client"
    assert balancer.tally(f"{FAR}:80") == {"web1": 1}


@pytest.mark.parametrize("answer", ["reject", "drop"])
def test_a_service_that_cannot_serve_answers_for_all_addresses(balancer: Balancer, answer: str) -> None:
    """With iptables a refusal needs a route, which the balancer of the lab has to its connected networks."""
    balancer.apply([gateway(listen="10.0.0.0/24:80", when_empty=answer), gateway("web1", name="far")])
    wanted = REFUSED if answer == "reject" else NOBODY
    assert balancer.tally(f"{WEB['web3']}:80", timeout_s=0.5) == wanted
    assert balancer.tally(f"{FAR}:80") == {"web1": 1}


def test_clients_are_admitted_as_with_an_address(balancer: Balancer) -> None:
    balancer.apply([gateway("web1", listen="10.0.0.0/24:80", allow_from=["198.18.0.0/17"])])
    target = f"{WEB['web3']}:80"
    assert balancer.tally(target, sources=["198.18.0.9"]) == {"web1": 1}
    assert balancer.tally(target, sources=["198.18.200.9"]) == REFUSED
    balancer.apply([gateway("web1", listen="10.0.0.0/24:80", max_connections_per_client=2)])
    held = balancer.hold(target, 2)
    assert [answer.name for _handle, answer in held] == ["web1", "web1"]
    assert balancer.tally(target, timeout_s=4.0) == REFUSED


def test_a_refused_attempt_takes_another_backend(balancer: Balancer) -> None:
    keys = {"redispatch": True}
    with dead(balancer, "web2"):
        balancer.apply([gateway("web1", "web2", **keys)])
        assert set(who(attempts(balancer.client, f"{FAR}:80", 20))) == {"web1"}
        # That of another service passes, which has the same backend.
        balancer.apply([gateway("web1", "web2", **keys), service("address", redispatch=False, backends=webs("web2"))])
        assert balancer.tally(f"{VIP}:80") == REFUSED
        assert set(who(attempts(balancer.client, f"{FAR}:80", 20))) == {"web1"}


def test_udp_of_this_host_and_of_clients(balancer: Balancer) -> None:
    """A flow of a client that began before begins anew, one of this host goes on."""
    balancer.apply([service("forwarding", listen=f"{VIP}:9000", backends=webs("web1"))], transit="accept")
    ((handle, first),) = balancer.hold(f"{WEB['web3']}:80", protocol="udp")
    assert first.name == "web3"
    mine = balancer.host.call(traffic.hold, f"{WEB['web3']}:80", 1, protocol="udp")[0][0]
    port = own_port(balancer)
    balancer.apply([gateway("web1", protocol="udp")])
    assert balancer.talk(handle).name == "web1"
    assert traffic.Answer(*balancer.host.call(traffic.talk, mine)).name == "web3"
    assert own_port(balancer) == port, "its entry was not deleted"


def own_port(balancer: Balancer) -> set[str]:
    listed = balancer.host.run("conntrack", "-L", "-p", "udp", "-s", BACK, "-o", "id")
    return {word for line in str(listed).splitlines() for word in line.split() if word.startswith("id=")}


def test_counts_status_and_trace(balancer: Balancer) -> None:
    declared = [gateway("web1", listen="203.0.113.0/24:80"), gateway("web1", name="rest", interface="front")]
    balancer.apply(declared, program=single_file.text)
    balancer.hold(f"{FAR}:80", 2)
    balancer.hold(f"{FARTHER}:80", 1)
    counts = {
        one["name"]: (one["listen"], one["backends"][0]["active_connections"], one["backends"][0]["new_connections"])
        for one in balancer.info()["services"]
    }
    assert counts == {"gateway": (["203.0.113.0/24:80"], 2, 2), "rest": (["0.0.0.0/0:80"], 1, 1)}
    _code, told, error = balancer.natlb("trace", CLIENT, f"{FARTHER}:80")
    assert "rest" in told, error
    _code, told, error = balancer.natlb("trace", CLIENT, f"{FAR}:80")
    assert "gateway" in told, error
    closed = balancer.backend(
        "web1", "disabled", service="rest", wait=True, wait_timeout=1, close_connections=True, min_active=0
    )
    assert closed["closed"] == 1


def test_it_boots_and_goes(balancer: Balancer) -> None:
    backends = [*webs("web1"), {"name": "six", "address": WEB6["web1"]}]
    declared = [gateway(listen=["203.0.113.0/24:80-81", "[2001:db8:99::]/64:80"], backends=backends)]
    balancer.apply(declared)
    before = balancer.snapshot()
    reboot(balancer)
    balancer.host.run("sh", str(balancer.etc / "boot"))
    assert balancer.apply(declared).transaction == "none"
    assert balancer.snapshot() == before
    assert balancer.tally(f"{FAR}:80") == balancer.tally(f"[{FAR6}]:80") == {"web1": 1}
    balancer.remove()
    assert not balancer.ours_left()
    assert balancer.tally(f"{FAR}:80", timeout_s=0.5) != {"web1": 1}


def test_one_spelling_for_ipv6(balancer: Balancer) -> None:
    balancer.apply([gateway("web1", version=6, listen="[2001:db8:99::]/64:80")])
    assert not balancer.apply([gateway("web1", version=6, listen="[2001:db8:99::/64]:80")]).changed
