# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules that marks of packets become."""

from __future__ import annotations

from typing import Any

import pytest
from _natlb.errors import ConfigError
from _natlb.iptables import render as iptables
from _natlb.model.services import parse_config
from _natlb.ruleset.sections import Ruleset

WEB: dict[str, Any] = {"address": "10.0.0.3", "port": 8080}
#: In every chain of these there is a jump to `NATLB..marks`.
ENTERING = "-m conntrack --ctstate DNAT --ctdir ORIGINAL -j NATLB..marks"


def service(name: str = "web", **keys: Any) -> dict[str, Any]:
    return {"name": name, "listen": "192.0.2.10:80", "backends": [WEB], **keys}


def rendered(*services: dict[str, Any]) -> Ruleset:
    return iptables.render(parse_config(list(services)))


def mangle(*services: dict[str, Any]) -> dict[str, list[str]]:
    """The rules of that table, without the names of their chains."""
    found = [(key.name, section.body) for key, section in rendered(*services).items() if key.table == "mangle"]
    return {name: [rule.split(" ", 2)[2] for rule in rules] for name, rules in found}


def test_what_is_not_marked_has_no_rules() -> None:
    both = [service(), service("b", listen="[2001:db8::10]:80", backends=["2001:db8::3"], mark="0x1/0xf")]
    families = {family: {k: s for k, s in rendered(*both).items() if k.family == family} for family in ("ip", "ip6")}
    assert families["ip"] == rendered(both[0])
    assert any(key.table == "mangle" for key in families["ip6"])
    # The other service keeps its chains to the last word.
    changed = {
        key
        for key, section in rendered(service(), service("c", listen="192.0.2.11:80", mark=1)).items()
        if key.table == "nat" and rendered(service(), service("c", listen="192.0.2.11:80")).get(key) != section
    }
    assert {key.name for key in changed} == {"NATLB.c.tcp", "NATLB.c.tcp.10.0.0.3/8080"}


def test_rules_of_a_service() -> None:
    found = mangle(service(mark="0x10/0xff"), service("plain", listen="192.0.2.11:80"))
    assert found == {
        "NATLB..d.tcp": ["-d 192.0.2.10/32 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x10/0xff"],
        "NATLB..marks": ["-p tcp -j NATLB..d.tcp"],
        "NATLB.mark": [ENTERING],
        "NATLB.answers": [ENTERING],
        "PREROUTING": ["-j NATLB.mark"],
        "OUTPUT": ["-j NATLB.answers"],
    }


def test_the_first_packet_is_marked_before_it_is_translated() -> None:
    found = rendered(service(mark="0x10/0xff", backends=[WEB, {**WEB, "address": "10.0.0.4", "mark": "0x20/0xf0"}]))
    chains = {key.name: section.body for key, section in found.items() if key.table == "nat"}
    for address, mark in (("10.0.0.3", "0x10/0xff"), ("10.0.0.4", "0x20/0xff")):
        name = f"NATLB.web.tcp.{address}/8080"
        assert chains[name] == (
            f"-A {name} -j MARK --set-xmark {mark}",
            f"-A {name} -p tcp -j DNAT --to-destination {address}:8080",
        )


def test_rules_of_backends() -> None:
    backends = [
        {"address": "10.0.0.3", "mark": "0x1/0xf"},
        {"address": "10.0.0.4:81", "mark": "0x20/0xf0"},
        {"address": "10.0.0.4:82", "name": "b", "mark": "0x30/0xf0"},
        {"address": "10.0.0.5"},
    ]
    found = mangle(service(listen="192.0.2.10:80-90", backends=backends, mark="0x12/0xff"))
    (tree,) = [name for name in found if name.startswith("NATLB..mb.")]
    (ports,) = [name for name in found if name.startswith("NATLB..mp.")]
    usual = "-j MARK --set-xmark 0x12/0xff"
    assert found["NATLB..d.tcp"] == [f"-d 192.0.2.10/32 -p tcp -m tcp --dport 80:90 -j {tree}"]
    assert found[tree] == [
        "-m conntrack --ctreplsrc 10.0.0.3 --ctreplsrcport 80:90 -g NATLB..m.11_ff",
        f"-m conntrack --ctreplsrc 10.0.0.4 -g {ports}",
        usual,
    ]
    assert found[ports] == [
        "-m conntrack --ctreplsrcport 81 -g NATLB..m.22_ff",
        "-m conntrack --ctreplsrcport 82 -g NATLB..m.32_ff",
        usual,
    ]
    assert found["NATLB..m.22_ff"] == ["-j MARK --set-xmark 0x22/0xff"]


def test_a_packet_to_one_of_many_backends_meets_few_rules() -> None:
    backends = [{"address": f"10.{i >> 8}.{i & 255}.1", "mark": f"{i % 8:#x}/0xff"} for i in range(4000)]
    found = mangle(service(listen="*:80", backends=backends))
    assert max(map(len, found.values())) < 30


def test_of_several_trees_the_first_one_that_has_a_packet_decides() -> None:
    """Also where it sets no mark: of the service without one there are rules as well."""
    bits = "0x3f000000/0x3f000000"
    found = mangle(service(), service("network", listen="192.0.2.0/24:80", mark="0x10/0xff"))
    assert found["NATLB..marks"][0] == "-p tcp -j NATLB..d.tcp"
    assert all(rule.endswith(f"-m mark ! --mark {bits} -j NATLB..dn.tcp") for rule in found["NATLB..marks"][1:-1])
    assert found["NATLB..marks"][-1] == "-m mark --mark 0x3f000000/0x3f000000 -j MARK --set-xmark 0x0/0x3f000000"
    assert found["NATLB..d.tcp"] == [f"-d 192.0.2.10/32 -p tcp -m tcp --dport 80 -j MARK --set-xmark {bits}"]


@pytest.mark.parametrize(
    "other",
    [
        {"listen": "192.0.2.0/24:80"},
        {"listen": "*:80"},
        {"listen": "192.0.2.10:80", "interface": "eth0", "snat": "none"},
    ],
)
def test_bits_by_which_services_are_told_apart_are_taken(other: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        rendered(service("other", **other), service(mark=1))
    assert str(caught.value) == (
        "services[1].mark: 0x1/0xffffffff has bits of mark_mask (0x3f000000), by which iptables tells services apart "
        "(take other bits, another mark_mask, or engine: nftables)"
    )
    rendered(service("other", **other), service(mark="0x1/0xffffff"))
