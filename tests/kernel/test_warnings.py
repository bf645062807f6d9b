# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declarations that the host cannot live up to: each is shown to fail, a run says why, and is silent once mended."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from kernel_lab import server, traffic
from kernel_lab.balancer import Balancer, service, webs
from kernel_lab.topology import CLIENT, CLIENTS, FRONT, FRONT6, NAMES, OTHER_VIP, VIP, VIP6, WEB

#: Routed to the balancer by the client, and in none of the balancer's networks.
ROUTED, ROUTED6 = "203.0.113.10", "2001:db8:99::10"
#: Addresses that no host has asked for yet: those that outlive a test remember their neighbours.
_unasked = itertools.count(150)
NOT_SERVED = {"TimeoutError", "OSError", "ConnectionRefusedError"}


def fails(balancer: Balancer, target: str = f"{VIP}:80") -> None:
    assert set(balancer.tally(target, timeout_s=0.5)) <= NOT_SERVED


def told(outcome: Any, words: str) -> list[str]:
    return [warning for warning in outcome.warnings if words in warning]


# -- interfaces ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["frnt", "Front"])
def test_an_interface_that_is_not_there(balancer: Balancer, wrong: str) -> None:
    balancer.host.sysctl({"ipv4/conf/all/rp_filter": 1})
    outcome = balancer.apply([service(interface=wrong)])
    assert told(outcome, "rp_filter") == [], "a filter drops nothing at an interface that is not there"
    fails(balancer)
    (warning,) = told(outcome, "has no interface")
    assert warning.startswith(f"service web: this host has no interface {wrong}, so no connection comes in by it; ")
    assert "it has front, " in warning
    assert told(balancer.apply([service(interface="front")]), "has no interface") == []
    assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)


def test_the_port_of_a_bridge_is_not_the_bridge(balancer: Balancer) -> None:
    host = balancer.host
    host.ip(
        f"link add br0 type bridge\naddress flush dev front\nlink set front master br0\n"
        f"address add {FRONT}/24 dev br0\nlink set br0 address 02:00:00:00:00:02\nlink set br0 up"
    )
    outcome = balancer.apply([service(interface="front")])
    fails(balancer)
    (warning,) = told(outcome, "port of")
    assert warning == ("service web: front is a port of the bridge br0, so no connection comes in by it; write br0")
    assert told(balancer.apply([service(interface="br0")]), "port of") == []
    assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)


def test_a_way_out_that_is_not_there(balancer: Balancer) -> None:
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    web1 = balancer.lab.backends["web1"]
    outcome = balancer.apply([], [{"source": "10.0.0.0/24", "out_interface": "frontt"}])
    (warning,) = told(outcome, "no interface frontt")
    assert warning.startswith("egress of 10.0.0.0/24: this host has no interface frontt, so nothing leaves by it; ")
    assert seen_by_client(web1, timeout_s=0.5) != FRONT
    outcome = balancer.apply([], [{"source": "10.0.0.0/24", "out_interface": "front"}])
    assert outcome.warnings == []
    assert seen_by_client(web1) == FRONT


def seen_by_client(host: Any, timeout_s: float = 5.0) -> str:
    """The address from which the client sees this host's connections come."""
    (answer,) = host.call(traffic.ask, f"{CLIENT}:80", timeout_s=timeout_s)
    return str(answer.peer)


# -- addresses -----------------------------------------------------------------------------------------------------


def test_a_source_address_that_nobody_has(balancer: Balancer) -> None:
    balancer.host.ip(f"address add {VIP}/32 dev front")
    address = f"10.0.0.{next(_unasked)}"
    web = service(snat=address)
    outcome = balancer.apply([web])
    fails(balancer)
    (warning,) = told(outcome, "snat")
    assert warning.startswith(f"service web: snat {address} is in the connected network 10.0.0.0/24, but no interface")
    balancer.host.ip(f"address add {address}/32 dev back")
    assert balancer.apply([web]).warnings == []
    assert {answer.peer for answer in balancer.ask(count=4)} == {address}


def test_egress_by_an_address_that_nobody_has(balancer: Balancer) -> None:
    address = f"192.0.2.{next(_unasked)}"
    egress = [{"source": "10.0.0.0/24", "snat": address}]
    web1 = balancer.lab.backends["web1"]
    (warning,) = balancer.apply([], egress).warnings
    assert warning.startswith(f"egress of 10.0.0.0/24: snat {address} is in the connected network 192.0.2.0/24")
    assert seen_by_client(web1, timeout_s=0.5) == ""
    balancer.host.ip(f"address add {address}/32 dev front")
    assert balancer.apply([], egress).warnings == []
    assert seen_by_client(web1) == address


def test_a_refusal_needs_a_route_with_iptables(balancer: Balancer) -> None:
    client = balancer.client
    client.ip(f"route replace {ROUTED} via {FRONT}\nroute replace {ROUTED6} via {FRONT6}")
    empty = [service(listen=[f"{ROUTED}:80", f"[{ROUTED6}]:80"], backends=[])]
    for target in (f"{ROUTED}:80", f"[{ROUTED6}]:80"):
        outcome = balancer.apply(empty)
        warnings = told(outcome, "no route of this host leads to")
        patience_s = traffic.TIMEOUT_S if balancer.nftables else 0.5
        refused = balancer.tally(target, timeout_s=patience_s) == {"ConnectionRefusedError": 1}
        assert refused == balancer.nftables
        assert len(warnings) == (0 if balancer.nftables else 2)
    served = service(listen=f"{ROUTED}:80")
    assert told(balancer.apply([served]), "no route") == []
    assert balancer.tally(f"{ROUTED}:80", count=4) == dict.fromkeys(NAMES, 1)
    balancer.host.ip(f"address add {ROUTED}/32 dev lo\naddress add {ROUTED6}/128 dev lo")
    assert told(balancer.apply(empty), "no route") == []
    for target in (f"{ROUTED}:80", f"[{ROUTED6}]:80"):
        assert balancer.tally(target) == {"ConnectionRefusedError": 1}


def test_a_backend_that_is_a_frontend_here(balancer: Balancer) -> None:
    balancer.host.ip(f"address add {VIP}/32 dev front\naddress add {OTHER_VIP}/32 dev front")
    chained = service("first", backends=[{"address": OTHER_VIP, "port": 81}])
    second = service("second", listen=f"{OTHER_VIP}:81", backends=webs(port=80))
    outcome = balancer.apply([chained, second])
    fails(balancer)
    (warning,) = outcome.warnings
    assert warning == (
        f"service first: its backend {OTHER_VIP} 81 is a frontend of service second here; a connection is translated "
        f"only once, so they end on this host; name the backends of second instead"
    )
    assert balancer.apply([service("first"), second]).warnings == []
    assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)


def test_a_backend_that_is_a_frontend_routed_elsewhere(balancer: Balancer) -> None:
    """The router that the address is routed to sends it back here, and this host forwards it again."""
    balancer.host.ip(f"address add {VIP}/32 dev front\nroute add {ROUTED}/32 via {CLIENT}")
    balancer.client.ip(f"route replace {ROUTED} via {FRONT}")
    second = service("second", listen=f"{ROUTED}:81", backends=webs(port=80))
    outcome = balancer.apply([service("first", backends=[{"address": ROUTED, "port": 81}]), second])
    fails(balancer)
    (warning,) = told(outcome, "frontend of service second")
    assert "go nowhere unless another balancer has that address" in warning


# -- bridges -------------------------------------------------------------------------------------------------------

BRIDGED = {"web1": "10.9.0.3", "web2": "10.9.0.4"}
BRIDGED6 = {"web1": "2001:db8:9::3", "web2": "2001:db8:9::4"}


def bridged(balancer: Balancer) -> None:
    """Two backends as ports of a bridge of the balancer, which is their way to the virtual addresses."""
    balancer.host.ip(
        "link add br0 type bridge mcast_snooping 0\naddress add 10.9.0.1/24 dev br0\n"
        "address add 2001:db8:9::1/64 dev br0 nodad\nlink set br0 up"
    )
    for name, address in BRIDGED.items():
        host, link = balancer.lab.backends[name], "own"
        # That of the test before goes only when the kernel has taken its balancer away, and until then leads there.
        host.run("ip", "link", "delete", link, check=False)
        balancer.host.ip(f"link add {name} type veth peer name {link} netns {host.pid}\nlink set {name} master br0 up")
        host.ip(
            f"address add {address}/24 dev {link}\naddress add {BRIDGED6[name]}/64 dev {link} nodad\n"
            f"link set {link} up\nroute replace {VIP} via 10.9.0.1\nroute replace {VIP6} via 2001:db8:9::1"
        )


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_a_backend_behind_a_filtering_bridge_that_chooses_itself(balancer: Balancer, family: str) -> None:
    bridged(balancer)
    target = f"{VIP}:80" if family == "ip" else f"[{VIP6}]:80"
    sysctl = "bridge-nf-call-iptables" if family == "ip" else "bridge-nf-call-ip6tables"
    addresses = BRIDGED if family == "ip" else BRIDGED6
    web = [service(listen=target, backends=[{"name": "web1", "address": addresses["web1"]}])]
    web1 = balancer.lab.backends["web1"]

    def reached() -> str:
        return str(web1.call(traffic.ask, target, timeout_s=2.5)[0].who)

    balancer.host.sysctl({f"bridge/{sysctl}": 1})
    (warning,) = told(balancer.apply(web), "bridge br0")
    assert reached() == "TimeoutError"
    assert warning.startswith("service web: a backend behind the bridge br0 that connects to its own service")
    assert f"({sysctl})" in warning
    assert "(web1, web2)" in warning, "nobody has asked for the backend yet, so it may be behind any port"
    at = addresses["web1"] if family == "ip" else f"[{addresses['web1']}]"
    assert [answer.who for answer in balancer.host.call(traffic.ask, f"{at}:80")] == ["web1"]
    (warning,) = told(balancer.apply(web), "bridge br0")
    assert "for the ports of backends (web1), or" in warning

    balancer.host.ip("link set dev web1 type bridge_slave hairpin on")
    assert told(balancer.apply(web), "bridge br0") == []
    assert reached() == "web1"
    balancer.host.ip("link set dev web1 type bridge_slave hairpin off")
    balancer.host.sysctl({f"bridge/{sysctl}": 0})
    assert told(balancer.apply(web), "bridge br0") == []
    assert reached() == "web1"


def test_no_warning_where_no_backend_asks(balancer: Balancer) -> None:
    bridged(balancer)
    others = [service(allow_from="192.0.2.0/24", backends=[{"address": BRIDGED["web1"]}])]
    assert told(balancer.apply(others), "bridge br0") == []
    elsewhere = [service(interface="front", backends=[{"address": BRIDGED["web1"]}]), service("on", listen=f"{VIP}:81")]
    assert told(balancer.apply(elsewhere), "bridge br0") == []


# -- ways back -----------------------------------------------------------------------------------------------------


def test_clients_that_the_reverse_path_filter_drops(balancer: Balancer) -> None:
    """The way back to them is another interface: with a strict filter not even a refusal is sent."""
    web = [service(interface="front", allow_from=CLIENTS)]
    source = CLIENTS.replace("0.0/16", "0.7")
    balancer.host.sysctl({"ipv4/conf/front/rp_filter": 1})
    balancer.host.ip(f"route replace {CLIENTS} via {WEB['web1']} dev back")
    (warning,) = told(balancer.apply(web), "rp_filter")
    # Asked for by this address, the balancer would not even answer ARP.
    assert balancer.tally(timeout_s=0.5) == {"ConnectionRefusedError": 1}
    assert set(balancer.tally(sources=[source], timeout_s=0.5)) <= NOT_SERVED
    assert filtered(balancer) > 0
    assert warning.startswith("service web: its packets on front are dropped, since rp_filter is strict there ")
    balancer.host.sysctl({"ipv4/conf/front/rp_filter": 2, "ipv4/conf/all/rp_filter": 0})
    assert told(balancer.apply(web), "rp_filter") == []
    # Read only now: until the setting was another one, something may have come once more.
    dropped = filtered(balancer)
    assert set(balancer.tally(sources=[source], timeout_s=0.5)) <= NOT_SERVED, "answers still go astray"
    assert filtered(balancer) == dropped
    balancer.host.sysctl({"ipv4/conf/front/rp_filter": 1})
    balancer.host.ip("rule add from 198.18.0.0/16 lookup 77 pref 100")
    assert told(balancer.apply(web), "rp_filter") == [], "another table may know the way"
    balancer.host.ip(f"rule delete pref 100\nroute replace {CLIENTS} via {CLIENT} dev front")
    assert told(balancer.apply(web), "rp_filter") == []
    assert balancer.tally(count=4, sources=[source]) == dict.fromkeys(NAMES, 1)


def filtered(balancer: Balancer) -> int:
    """Packets that the reverse path filter has dropped."""
    return int(balancer.host.run("nstat", "-asz", "TcpExtIPReversePathFilter").split()[-2])


# -- programs of the host itself -----------------------------------------------------------------------------------


def test_a_program_that_a_service_hides(balancer: Balancer) -> None:
    balancer.host.ip(f"address add {VIP}/32 dev front")
    balancer.host.call(server.start, "own", [80, 8080])
    assert balancer.tally() == {"own": 1}
    assert told(balancer.apply([service()]), "a program") == [], "it is reached by other addresses"
    everywhere = [service(listen="*:80", backends=webs("web1"))]
    (warning,) = told(balancer.apply(everywhere), "a program")
    assert balancer.tally(count=2) == {"web1": 2}
    assert warning == (
        "service web: a program of this host serves tcp 0.0.0.0:80 too (`ss -lnpt`), but connections from outside go "
        "to the service now; stop it, or choose another frontend"
    )
    balancer.host.call(server.stop)
    assert told(balancer.apply(everywhere), "a program") == []


@pytest.mark.engines("nftables")
def test_a_check_that_cannot_be_made_here_is_told_by_the_run(
    balancer: Balancer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    program = tmp_path_factory.mktemp("programs") / "check"
    asked = service(health={"type": "command", "argv": [str(program), "{address}"], "user": "nobody"})
    said = f"service web: health.argv: {program} is no program of this host, so nobody checks its backends (install it)"
    assert said in balancer.apply([asked]).warnings
    assert said in balancer.apply([asked]).warnings, "also where nothing is to be changed"
    assert said in balancer.info()["warnings"]
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert said not in balancer.apply([asked]).warnings
    source = service(health={"type": "tcp", "source": "192.0.2.77"})
    assert any("192.0.2.77 is no address of this host" in warning for warning in balancer.apply([source]).warnings)
