# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of nft that bear the names of iptables' own: `iptables-nft-save` leaves out of them what it does not know."""

from __future__ import annotations

import pytest
from kernel_lab.balancer import Balancer, service
from kernel_lab.topology import NAMES, VIP, VIP6, WEB, WEB6
from test_forward_path import DOCKER, VARIANTS, closing, is_stopped, load, passes, theirs

FORWARD = "type filter hook forward priority filter; policy drop;"
SIX = service(listen=f"[{VIP6}]:80", backends=[{"address": WEB6["web1"]}])

#: What stands in FORWARD, and whether it denies our connections for certain.
CASES = {
    "list of ports": (["ct state established accept", "tcp dport { 22, 443 } accept"], True),
    "list without connection tracking": (["tcp dport { 22, 443 } accept"], True),
    "verdict map": (['iifname vmap { "front" : drop }'], False),
    "named set": (["oifname != \"eth9\" tcp dport @ports accept"], False),
    "named map": (["tcp dport vmap @verdicts"], False),
    "native only": (["ct state established,related accept"], True),
    "another priority": (["tcp dport 22 accept"], True),
    "set that denies others": (["ip saddr @others drop", "accept"], False),
}  # fmt: skip


def native(rules: list[str], family: str = "ip", head: str = FORWARD, chain: str = "FORWARD") -> str:
    rules = [rule.replace("ip saddr", f"{family} saddr") for rule in rules]
    return f"""
table {family} filter {{
  set ports {{ type inet_service; elements = {{ 22, 443 }}; }}
  set others {{ type {"ipv4_addr" if family == "ip" else "ipv6_addr"}; }}
  map verdicts {{ type inet_service : verdict; elements = {{ 22 : accept }}; }}
  chain {chain} {{
    {head}
    {chr(10).join(rules)}
  }}
}}
"""


def put(balancer: Balancer, text: str) -> None:
    if "@" not in text:
        lines = text.splitlines()
        text = "\n".join(line for line in lines if not line.startswith(("  set", "  map")))
    balancer.host.run("nft", "-f", "-", stdin=text)


@pytest.mark.engines("nftables", "iptables-legacy")
@pytest.mark.parametrize("family", ["ip", "ip6"])
@pytest.mark.parametrize("case", CASES)
def test_a_native_chain_is_walked_and_never_written_to(balancer: Balancer, case: str, family: str) -> None:
    rules, closes = CASES[case]
    web = service() if family == "ip" else SIX
    head = FORWARD.replace("priority filter", "priority filter + 5") if case == "another priority" else FORWARD
    put(balancer, native(rules, family, head))
    before = theirs(balancer)
    for firewall in ("warn", "accept"):
        outcome = balancer.apply([web], firewall=firewall)
        told = closing(outcome)
        assert len(told) == closes
        if closes:
            assert f"because of table {family} filter, chain FORWARD (policy drop)" in told[0]
            assert f"`nft insert rule {family} filter FORWARD ct status dnat accept`" in told[0]
        assert "NATLB" not in outcome.diff or not balancer.nftables
        assert theirs(balancer) == before
    if closes and family == "ip":
        is_stopped(balancer)
        balancer.host.run(*told[0].split("`")[1].split())
        assert closing(balancer.apply([web], firewall="accept")) == []
        passes(balancer)


#: Matches and targets that nft lists in its own words, or in those of iptables, and that need no set.
EXTENSIONS = [
    "-p tcp -m multiport --dports 22,443 -j ACCEPT",
    "-p tcp -m multiport --dports 1000:2000,443 -m comment --comment \"@ports { 22, 443 }\" -j ACCEPT",
    "-m addrtype --dst-type BROADCAST -j DROP",
    "-m mac --mac-source 02:00:00:00:00:09 -j DROP",
    "-m iprange --src-range 203.0.113.1-203.0.113.9 -j DROP",
    "-m recent --rcheck --name x -j DROP",
    "-m hashlimit --hashlimit-above 5000/sec --hashlimit-name y --hashlimit-mode srcip -j DROP",
    "-m limit --limit 3/min -j LOG --log-prefix \"[x] \"",
    "-m mark --mark 0x9/0xff -j NFLOG --nflog-group 3",
    "-m time --timestart 00:00 --timestop 00:00:01 -j DROP",
    "-m string --string x --algo bm -j DROP",
    "-p icmp -m icmp --icmp-type 8 -j ACCEPT",
    "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
]  # fmt: skip


@pytest.mark.engines("nftables", "iptables-nft")
def test_tables_of_iptables_are_known_as_such(balancer: Balancer) -> None:
    """With all kinds of extensions, and a native chain of somebody beside them."""
    rules = "".join(f"-A FORWARD {rule}\n" for rule in EXTENSIONS)
    for variant in VARIANTS:
        load(balancer, variant, DOCKER)
        balancer.host.run(f"{variant}-restore", "--noflush", "-w", "10", stdin=f"*filter\n{rules}COMMIT\n")
    put(balancer, native(["udp dport 5353 accept"], head="type filter hook input priority 5;", chain="mine"))
    before = theirs(balancer)
    (first, second) = [text for text in closing(balancer.apply([service()])) if "chain FORWARD of iptables-" in text]
    assert "firewall: accept lets only them pass" in first
    assert "firewall: accept lets only them pass" in second
    assert closing(balancer.apply([service()], firewall="accept")) == []
    passes(balancer)
    assert theirs(balancer) == before
    assert not balancer.apply([service()], firewall="accept").changed


@pytest.mark.engines("nftables")
def test_our_way_stays_when_a_set_comes_later(balancer: Balancer) -> None:
    """A way that a run has made is not taken away for it, and goes with the removal."""
    load(balancer, "iptables-nft", DOCKER)
    balancer.apply([service()], firewall="accept")
    balancer.host.run("nft", "add rule ip filter DOCKER-USER tcp dport { 22, 443 } drop")
    before = theirs(balancer)
    assert not balancer.apply([service()], firewall="accept").changed
    passes(balancer)
    balancer.remove()
    assert theirs(balancer) == before
    assert balancer.ours_left() == []


# -- elsewhere than at the forward hook ------------------------------------------------------------------------------


def elsewhere(table: str, chain: str, head: str, rule: str, family: str = "ip") -> str:
    return f"table {family} {table} {{\n  chain {chain} {{\n    {head}\n    {rule}\n  }}\n}}\n"


MANGLE = ("mangle", "PREROUTING", "type filter hook prerouting priority mangle;")
RAW = ("raw", "PREROUTING", "type filter hook prerouting priority raw;")
#: A table, what stands in it, and what is said.
ELSEWHERE = {
    "list": (MANGLE, "tcp dport { 80, 443 } drop", "packets are dropped by table ip mangle, chain PREROUTING ("),
    "list of others": (MANGLE, "tcp dport { 22, 443 } drop", ""),
    "native only": (MANGLE, f"ct state new ip daddr {VIP} drop", "packets are dropped by table ip mangle"),
    "notrack": (RAW, "tcp dport { 80, 443 } notrack", "packets are not tracked because of table ip raw"),
}


@pytest.mark.engines("nftables", "iptables-legacy")
@pytest.mark.parametrize("case", ELSEWHERE)
def test_native_chains_elsewhere_are_walked(balancer: Balancer, case: str) -> None:
    place, rule, said = ELSEWHERE[case]
    put(balancer, elsewhere(*place, rule))
    warnings = [text for text in balancer.apply([service()]).warnings if " ip " in text]
    assert [said in text for text in warnings] == [True] * bool(said)
    if said:
        assert set(balancer.tally(timeout_s=0.4)) <= {"TimeoutError", "OSError", "ConnectionRefusedError"}
    else:
        passes(balancer)


@pytest.mark.engines("iptables-legacy", "iptables-nft")
def test_a_native_nat_chain_of_our_priority(balancer: Balancer) -> None:
    head = "type nat hook prerouting priority dstnat;"
    balancer.host.run(
        "nft", "-f", "-", stdin=elsewhere("nat", "PREROUTING", head, f"tcp dport {{ 80, 81 }} dnat to {WEB['web4']}")
    )
    if balancer.variant == "nft":
        with pytest.raises(Exception, match=r"table ip nat was made with nft.*engine: nftables"):
            balancer.apply([service()])
        assert "NATLB" not in "".join(balancer.foreign().values())
        return
    (warning,) = [text for text in balancer.apply([service()]).warnings if " ip " in text]
    assert "connections are translated by table ip nat, chain PREROUTING" in warning
    assert "has the same priority" in warning


@pytest.mark.engines("iptables-nft")
@pytest.mark.parametrize("where", ["first", "behind"])
def test_rules_of_a_list_before_our_jump(balancer: Balancer, where: str) -> None:
    """What iptables can still read, it shares; the rule that it shows cut short is told as it is."""
    balancer.apply([service()])
    how = "insert" if where == "first" else "add"
    balancer.host.run("nft", f"{how} rule ip nat PREROUTING tcp dport {{ 80, 81 }} accept")
    warnings = [text for text in balancer.apply([service()]).warnings if " nat" in text]
    assert len(warnings) == (where == "first")
    if warnings:
        assert (
            "connections bypass natlb's rules because of table ip nat, chain PREROUTING (tcp dport { 80, 81 } accept)"
            in (warnings[0])
        )
        assert set(balancer.tally(timeout_s=0.4)) <= {"TimeoutError", "OSError", "ConnectionRefusedError"}
    else:
        assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)
    balancer.host.run("nft", f"{how} rule ip nat PREROUTING tcp dport {{ 22, 81 }} accept")
