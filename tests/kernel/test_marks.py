# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Marks of packets: they take the way that a rule of routing has for their mark, each of them, and nothing else does.

The backend has one address behind both uplinks. The main table leads to isp1, and the table of the mark to isp2, so the
name that answers tells the way.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from _natlb.cli import single_file
from _natlb.errors import NatlbError
from kernel_lab import traffic
from kernel_lab.balancer import Balancer, Mapping, service
from kernel_lab.topology import CLIENT, CLIENT6, INTERNET, OTHER_VIP, VIP, VIP6, WEB

INTERNET6 = "2001:db8:ff::200"
MARK = "0x10/0xff"
TARGET, TARGET6 = f"{VIP}:80", f"[{VIP6}]:80"
FAMILIES = {"ip": (TARGET, INTERNET), "ip6": (TARGET6, INTERNET6)}
GUEST = "198.18.7.7"


@pytest.fixture
def two_ways(balancer: Balancer) -> Balancer:
    """A balancer with both, and the tables of routing."""
    for number, (name, provider) in enumerate(balancer.lab.uplinks().items(), 1):
        link = {"isp1": "up1", "isp2": "up2.100"}[name]
        net = f"2001:db8:64:{number}::"
        provider.ip(
            f"address replace {INTERNET6}/128 dev lo nodad\naddress add {net}1/64 dev wire nodad\n"
            f"route replace default via 100.64.{number}.2\nroute replace default via {net}2"
        )
        balancer.host.ip(f"address add {net}2/64 dev {link} nodad")
        # An answer has no mark, and so the reverse path filter looks for it on the way of the main table.
        balancer.host.sysctl({f"ipv4/conf/{link}/rp_filter": 2})
        table = "main" if number == 1 else "100"
        balancer.host.ip(f"route add default via 100.64.{number}.1 table {table}")
        balancer.host.ip(f"route add {INTERNET6} via {net}1 table {table}")
    for family in ("", "-6 "):
        balancer.host.run("sh", "-c", f"ip {family}rule add fwmark 0x10/0xf0 lookup 100 pref 1000")
    return balancer


@pytest.mark.parametrize("family", FAMILIES)
def test_trace_takes_the_way_of_the_mark(two_ways: Balancer, family: str) -> None:
    target, backend = FAMILIES[family]
    for keys, way in (({}, "up1"), ({"mark": MARK}, "up2.100"), ({"mark": "0x20/0xff", "backend": MARK}, "up2.100")):
        of_backend = {"mark": keys.pop("backend")} if "backend" in keys else {}
        two_ways.apply([service(listen=target, backends=far(backend, **of_backend), **keys)], program=single_file.text)
        client = CLIENT if family == "ip" else CLIENT6
        _status, told, _error = two_ways.natlb("trace", client, target, "--json", "--no-contact")
        (route,) = [step["said"] for step in json.loads(told)["steps"] if step["where"] == "route"]
        assert f"{backend} is behind {way}" in route
        assert route.endswith(f", by its mark {MARK}") == (way != "up1")


def far(*addresses: str, **keys: Any) -> list[Mapping]:
    return [{"address": address, **keys} for address in addresses or (INTERNET,)]


def counting(balancer: Balancer, *marks: str, foreign: int = 0) -> None:
    """Rules of somebody else: they count packets by marks where these leave, and set bits of their own before."""
    rules = "\n".join(f"meta mark {mark} counter" for mark in marks)
    sets = f"meta mark set meta mark | {foreign:#x}" if foreign else ""
    text = f"""
        table inet others {{
            chain before {{
                type filter hook prerouting priority -160;
                {sets}
            }}
            chain behind {{
                type filter hook forward priority 10;
                {rules}
            }}
        }}
    """
    balancer.host.run("nft", "-f", "-", stdin=text)


def counted(balancer: Balancer) -> list[bool]:
    """Whether any packets had each of the marks."""
    listed = balancer.host.run("nft", "list", "chain", "inet", "others", "behind")
    return [int(packets) > 0 for packets in re.findall(r"packets (\d+)", listed)]


@pytest.mark.parametrize("snat", ["masquerade", "none"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("family", FAMILIES)
def test_all_packets_take_the_way_of_the_mark(two_ways: Balancer, family: str, protocol: str, snat: str) -> None:
    target, address = FAMILIES[family]
    other = target.replace(":80", ":8080")
    keys = {"protocol": protocol, "snat": snat, "backends": far(address)}
    two_ways.apply([service(listen=target, mark=MARK, **keys), service("other", listen=other, **keys)])
    ((marked, answer),) = two_ways.hold(target, protocol=protocol)
    ((plain, elsewhere),) = two_ways.hold(other, protocol=protocol)
    assert (answer.name, elsewhere.name) == ("isp2", "isp1")
    for _message in range(3):
        assert (two_ways.talk(marked).name, two_ways.talk(plain).name) == ("isp2", "isp1")
    # A client on the balancer itself.
    assert [item.name for item in two_ways.host.call(traffic.ask, target, 2, protocol=protocol)] == ["isp2"] * 2
    assert [item.name for item in two_ways.host.call(traffic.ask, other, 2, protocol=protocol)] == ["isp1"] * 2


@pytest.mark.engines("nftables", "iptables-nft")
def test_a_strict_reverse_path_filter_gives_a_warning(two_ways: Balancer) -> None:
    """The way that it looks for is that of a packet without a mark."""
    declared = [service(backends=far(), mark=MARK)]
    assert not [text for text in two_ways.apply(declared).warnings if "rp_filter" in text]
    two_ways.host.sysctl({"ipv4/conf/up2.100/rp_filter": 1})
    (warning,) = [text for text in two_ways.apply(declared).warnings if "rp_filter" in text]
    assert warning.startswith(f"service web: packets to {INTERNET} leave by up2.100 because of their mark {MARK}, and ")
    assert two_ways.ask(TARGET, timeout_s=0.5)[0].error
    two_ways.host.sysctl({"ipv4/conf/up2.100/rp_filter": 2})
    assert not [text for text in two_ways.apply(declared).warnings if "rp_filter" in text]
    assert two_ways.ask(TARGET)[0].name == "isp2"


SHAPES: dict[str, Mapping] = {
    "range": {"listen": f"{VIP}:80-90", "backends": far(port=80)},
    "range of ports that stay": {"listen": f"{VIP}:80-90"},
    "shift": {"listen": f"{VIP}:80-90", "backends": far(port="+8000")},
    "network": {"listen": "192.0.2.8/29:80"},
    "network of an interface": {"listen": "192.0.2.8/29:80", "interface": "front"},
    "every address": {"listen": "*:80"},
    "every address of an interface": {"listen": "*:80", "interface": "front"},
    "interface": {"interface": "front"},
    "range of an interface": {"listen": f"{VIP}:80-90", "interface": "front"},
    "source_hash": {"method": "source_hash", "snat": "none"},
    "flow_hash": {"method": "flow_hash"},
    "affinity": {"affinity": 60},
    "lists": {"allow_from": "0.0.0.0/0", "log": True, "max_connections_per_client": 9},
    "source addresses": {"snat": "100.64.2.2", "snat_ports": "20000-29999"},
}


@pytest.mark.engines("nftables", "iptables-nft")
@pytest.mark.parametrize("of", ["service", "backend"])
@pytest.mark.parametrize("shape", SHAPES)
def test_services_of_each_shape(two_ways: Balancer, shape: str, of: str) -> None:
    if "every" in shape:
        two_ways.host.ip(f"address add {VIP}/32 dev front")
    marks_its_packets(two_ways, of, SHAPES[shape])


@pytest.mark.engines("nftables")
@pytest.mark.parametrize("of", ["service", "backend"])
def test_backends_with_a_limit(two_ways: Balancer, of: str) -> None:
    marks_its_packets(two_ways, of, {"backends": far(max_connections=9)})


def marks_its_packets(two_ways: Balancer, of: str, keys: Mapping) -> None:
    """A service with these keys; `of` says who has the mark."""
    declared = service(**{"backends": far(), **keys})
    if of == "service":
        declared["mark"] = MARK
    else:
        declared["backends"] = [{**item, "mark": MARK} for item in declared["backends"]]
    first = two_ways.apply([declared], program=single_file.text)
    assert first.changed
    ((handle, answer),) = two_ways.hold(TARGET)
    assert answer.name == "isp2"
    assert two_ways.talk(handle).name == "isp2"
    again = two_ways.apply([declared])
    assert (again.changed, again.diff) == (False, "")
    assert not two_ways.info()["drift"]


def test_the_mark_of_a_backend_is_set_beside_that_of_the_service(balancer: Balancer) -> None:
    backends = [
        {"address": WEB["web1"], "mark": "0x20/0xf0"},
        {"address": WEB["web2"], "mark": "0x300/0xf00"},
        {"address": WEB["web3"], "mark": "0x0/0xff"},
        {"address": WEB["web4"]},
    ]
    balancer.apply([service(mark="0x11/0xff", backends=backends, protocol=["tcp", "udp"])])
    marks = {"web1": "0x21", "web2": "0x311", "web3": "0x0", "web4": "0x11"}
    counting(balancer, *(f"{mark} ip daddr {WEB[name]}" for name, mark in marks.items()))
    balancer.ask(TARGET, 4)
    assert counted(balancer) == [True] * 4
    balancer.host.run("nft", "delete", "table", "inet", "others")
    counting(
        balancer, *(f"!= {mark} ip daddr {WEB[name]}" for name, mark in marks.items()), "!= 0x0 ip saddr 10.0.0.0/24"
    )
    balancer.ask(TARGET, 4)
    balancer.ask(TARGET, 4, protocol="udp")
    assert counted(balancer) == [False] * 5, "another mark, or one of an answer"


def test_foreign_bits_stay(balancer: Balancer) -> None:
    counting(balancer, f"0x50010 ip daddr {WEB['web1']}", f"!= 0x50010 ip daddr {WEB['web1']}", foreign=0x500FF)
    balancer.apply([service(backends=[{"address": WEB["web1"]}], mark=MARK)])
    ((handle, _answer),) = balancer.hold(TARGET)
    balancer.talk(handle)
    assert counted(balancer) == [True, False]
    # All bits are of a mark that names none.
    balancer.host.run("nft", "delete", "table", "inet", "others")
    balancer.apply([service(backends=[{"address": WEB["web1"]}], mark="0x10")])
    # Only now: the client acknowledges the last answer up to 40 ms later, and until then with the mark of before.
    counting(balancer, f"0x10 ip daddr {WEB['web1']}", f"!= 0x10 ip daddr {WEB['web1']}", foreign=0x500FF)
    balancer.talk(handle)
    assert counted(balancer) == [True, False]


def test_foreign_bits_of_connections_of_others_stay(balancer: Balancer) -> None:
    """They may be those by which iptables tells services apart."""
    bits, theirs = 0x15000000, f"ct original ip daddr {OTHER_VIP} ct direction original"
    counting(balancer, f"{bits:#x} {theirs}", f"!= {bits:#x} {theirs}", foreign=bits)
    pre = f"type nat hook prerouting priority -110; ip daddr {OTHER_VIP} dnat to {WEB['web1']}"
    balancer.host.run("nft", "-f", "-", stdin=f"table ip theirs {{\nchain pre {{\n{pre}\n}}\n}}\n")
    backends = [{"address": WEB["web1"]}]
    balancer.apply([service(backends=backends, mark=MARK), service("any", listen="*:81", backends=backends)])
    ((handle, _answer),) = balancer.hold(f"{OTHER_VIP}:80")
    for _message in range(3):
        balancer.talk(handle)
    assert counted(balancer) == [True, False]


def test_the_most_specific_service_decides(two_ways: Balancer) -> None:
    """Its packets have its mark or none, though another one has the same backend."""
    two_ways.host.ip(f"address add {VIP}/32 dev front")
    for specific, general in (
        ({"listen": TARGET}, {"listen": "192.0.2.8/29:80"}),
        ({"listen": TARGET}, {"listen": "*:80"}),
        ({"listen": TARGET}, {"listen": f"{VIP}:1-1000"}),
        ({"listen": TARGET, "interface": "front"}, {"listen": TARGET}),
    ):
        for mark, name in (({}, "isp1"), ({"mark": "0x20/0xff"}, "isp1"), ({"mark": "0x1f/0xff"}, "isp2")):
            declared = [
                service(backends=far(), **specific, **mark),
                service("general", backends=far(), mark="0x10/0xff" if name == "isp1" else "0x20/0xff", **general),
            ]
            two_ways.apply(declared)
            assert two_ways.ask(TARGET)[0].name == name, declared


def test_marks_come_change_and_go(two_ways: Balancer) -> None:
    """While connections go on: a mark that leads the same way breaks none."""
    plain, marked = service(backends=far()), service(backends=far(), mark=MARK)
    # A table of iptables stays, once it is there.
    two_ways.apply([marked])
    two_ways.apply([plain])
    before = lines(two_ways)
    checked = two_ways.apply([marked], check=True)
    assert checked.changed
    assert lines(two_ways) == before
    assert two_ways.apply([marked]).transaction == "delta"
    ((handle, answer),) = two_ways.hold(TARGET)
    assert answer.name == "isp2"
    for mark, where in (("0x1f/0xff", {}), ("0x10/0xf0", {}), ("0x10/0xf0", {"backends": far(mark="0x3/0xf")})):
        assert two_ways.apply([service(**{"backends": far(), "mark": mark, **where})]).transaction == "delta"
        assert two_ways.talk(handle).name == "isp2", mark
    assert two_ways.apply([service(backends=far(mark=MARK))]).transaction == "delta"
    assert two_ways.talk(handle).name == "isp2"
    checked = two_ways.apply([plain], check=True)
    assert checked.changed
    assert two_ways.talk(handle).name == "isp2"
    assert two_ways.apply([plain]).transaction == "delta"
    assert lines(two_ways) == before
    assert two_ways.ask(TARGET)[0].name == "isp1"
    two_ways.apply([marked])
    two_ways.remove()
    assert not two_ways.ours_left()


def test_a_range_comes_changes_and_goes(two_ways: Balancer) -> None:
    """Its elements are intervals, which linger."""
    keys: dict[str, Any] = {"listen": f"{VIP}:80-90", "backends": far()}
    two_ways.apply([service(**keys), service("other", listen=f"{OTHER_VIP}:80", backends=far(), mark=MARK)])
    assert two_ways.ask(TARGET)[0].name == "isp1"
    for mark, name in (("0x10/0xff", "isp2"), ("0x20/0xff", "isp1"), ("0x1f/0xff", "isp2")):
        two_ways.apply([service(**keys, mark=mark), service("other", listen=f"{OTHER_VIP}:80", backends=far())])
        assert two_ways.ask(TARGET)[0].name == name
        assert not two_ways.info()["drift"]
    two_ways.apply([service(**keys)])
    assert two_ways.ask(TARGET)[0].name == "isp1"


def test_states_and_weights_change_beside_marks(two_ways: Balancer) -> None:
    declared = service(backends=[*far(mark=MARK), {"address": WEB["web1"], "state": "drained"}])
    two_ways.apply([declared, service("other", listen=f"{OTHER_VIP}:80")])
    assert two_ways.ask(TARGET)[0].name == "isp2"
    declared["backends"][1]["state"] = "active"
    two_ways.apply([declared, service("other", listen=f"{OTHER_VIP}:80")])
    assert {item.name for item in two_ways.ask(TARGET, 2)} == {"isp2", "web1"}
    assert not two_ways.apply([declared, service("other", listen=f"{OTHER_VIP}:80")]).changed
    two_ways.backend(WEB["web1"], "drained")
    assert {item.name for item in two_ways.ask(TARGET, 2)} == {"isp2"}
    assert not two_ways.info()["drift"]


def lines(balancer: Balancer) -> dict[str, list[str]]:
    """All rules. A chain that comes again is listed behind the others."""
    return {name: sorted(text.splitlines()) for name, text in balancer.snapshot().items()}


def test_beside_uplinks(two_ways: Balancer) -> None:
    """Both route by marks, each by its own bits."""
    uplinks = [{"interface": "up1", "gateway": "100.64.1.1"}, {"interface": "up2.100", "gateway": "100.64.2.1"}]
    egress = [{"source": "10.0.0.0/24", "uplinks": uplinks}]
    two_ways.apply([service(backends=far(), mark=MARK), service("other", listen=f"{VIP}:8080", backends=far())], egress)
    ((handle, answer),) = two_ways.hold(TARGET)
    assert (answer.name, two_ways.talk(handle).name) == ("isp2", "isp2")
    assert two_ways.ask(f"{VIP}:8080")[0].name == "isp1"
    inside = two_ways.lab.backends["web1"].call(traffic.ask, f"{INTERNET}:80", 4)
    assert sorted(item.name for item in inside) == ["isp1", "isp1", "isp2", "isp2"]
    with pytest.raises(NatlbError, match="has bits of mark_mask"):
        two_ways.apply([service(backends=far(), mark=MARK)], egress, mark_mask="0xf0")
