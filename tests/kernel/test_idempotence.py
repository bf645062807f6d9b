# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Apply, repeat, undo, repeat undo; and check mode, which says what a run would do and does nothing."""

from __future__ import annotations

import pytest
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.drive import Contents, contents
from kernel_lab.topology import NAMES, VIP
from shapes import ALL, CHANGED, EGRESS, GUARDED, LISTED, LISTS, OTHER_LISTS, PLAIN

DECLARATIONS: dict[str, tuple[list[Mapping], list[Mapping]]] = {
    **{declared["name"]: ([declared], []) for declared in [*ALL, *LISTED]},
    **{f"egress{i}": ([], [item]) for i, item in enumerate(EGRESS)},
    "all": ([*ALL, *LISTED], EGRESS),
}


@pytest.mark.parametrize("name", DECLARATIONS)
def test_apply_repeat_undo_repeat_undo(balancer: Balancer, name: str) -> None:
    services, egress = DECLARATIONS[name]
    first = balancer.apply(services, egress, networks=LISTS)
    assert (first.changed, first.transaction, first.services) == (True, "replace", len(services))
    assert first.diff
    loaded = balancer.snapshot()
    again = balancer.apply(services, egress, networks=LISTS)
    assert (again.changed, again.diff, again.transaction) == (False, "", "none")
    assert balancer.snapshot() == loaded
    undone = balancer.remove()
    assert (undone.changed, undone.transaction) == (True, "remove")
    assert balancer.ours_left() == []
    gone = balancer.snapshot()
    repeated = balancer.remove()
    assert (repeated.changed, repeated.diff, repeated.transaction) == (False, "", "none")
    assert balancer.snapshot() == gone


def test_the_host_is_as_it_was(balancer: Balancer) -> None:
    before = balancer.foreign()
    balancer.apply(ALL, EGRESS)
    balancer.remove()
    assert balancer.foreign() == before
    assert balancer.host.run("nft", "list", "ruleset").count("natlb") == 0


def test_check_mode_of_a_first_run(balancer: Balancer) -> None:
    before = balancer.snapshot()
    checked = balancer.apply(ALL, EGRESS, check=True)
    assert balancer.snapshot() == before
    done = balancer.apply(ALL, EGRESS)
    assert (checked.changed, checked.diff, checked.engine) == (done.changed, done.diff, done.engine)
    assert checked.transaction == done.transaction
    assert not balancer.apply(ALL, EGRESS, check=True).changed


def test_check_mode_of_a_change(balancer: Balancer) -> None:
    balancer.apply(ALL, EGRESS)
    before = balancer.snapshot()
    checked = balancer.apply(CHANGED, EGRESS[:1], check=True)
    assert checked.changed
    assert balancer.snapshot() == before
    done = balancer.apply(CHANGED, EGRESS[:1])
    assert (checked.diff, checked.transaction) == (done.diff, done.transaction)
    assert balancer.snapshot() != before
    assert balancer.apply(CHANGED, EGRESS[:1]).transaction == "none"


def test_another_list_under_the_same_name(balancer: Balancer) -> None:
    balancer.apply(LISTED, networks=OTHER_LISTS)
    wanted = contents(balancer.snapshot())
    balancer.remove()
    balancer.apply(LISTED, networks=LISTS)
    before = balancer.snapshot()
    checked = balancer.apply(LISTED, networks=OTHER_LISTS, check=True)
    assert balancer.snapshot() == before
    done = balancer.apply(LISTED, networks=OTHER_LISTS)
    assert (checked.changed, checked.diff, checked.transaction) == (True, done.diff, done.transaction)
    assert contents(balancer.snapshot()) == wanted
    assert balancer.apply(LISTED, networks=OTHER_LISTS).transaction == "none"


def test_check_mode_of_a_removal(balancer: Balancer) -> None:
    balancer.apply(ALL, EGRESS)
    before = balancer.snapshot()
    checked = balancer.remove(check=True)
    assert balancer.snapshot() == before
    done = balancer.remove()
    assert (checked.changed, checked.diff) == (done.changed, done.diff)


def test_a_change_leads_where_a_first_run_leads(balancer: Balancer) -> None:
    balancer.apply(CHANGED)
    wanted = _rules(balancer)
    balancer.remove()
    balancer.apply(ALL, EGRESS)
    balancer.apply(CHANGED)
    assert _rules(balancer) == wanted


def _rules(balancer: Balancer) -> Contents:
    return {key: lines for key, lines in contents(balancer.snapshot()).items() if key[0].endswith(("nft", "-save"))}


def test_one_backend_is_a_small_change(balancer: Balancer) -> None:
    balancer.apply(ALL, EGRESS)
    changed = [service("late", listen=f"{VIP}:99", backends=webs("web1"))]
    outcome = balancer.apply([*ALL, *changed], EGRESS)
    assert outcome.transaction == "delta"
    assert "late" in outcome.diff or "99" in outcome.diff
    touched = [line for line in outcome.diff.splitlines() if line.startswith("-") and not line.startswith("---")]
    assert not any("guarded" in line or "sticky" in line for line in touched), touched
    assert balancer.tally(f"{VIP}:99", timeout_s=0.3), "it does not disturb"


def test_a_diff_begins_with_what_a_person_wants_to_know(balancer: Balancer) -> None:
    balancer.apply([service(backends=webs("web1", "web2"))])
    heavy = [{**webs("web1")[0], "weight": 3}, *webs("web2")]
    diff = balancer.apply([service(backends=heavy)]).diff.splitlines()
    assert diff[:3] == [
        "web: web1 weight 1 -> 3, share 50 % -> 75 %",
        "web: web2 share 50 % -> 25 %",
        next(line for line in diff if line.startswith("--- ")),
    ]
    assert not [line for line in diff if '"backends"' in line], "the kept request is JSON, and not for people"


def test_the_order_of_services_is_no_change(balancer: Balancer) -> None:
    balancer.apply(ALL)
    outcome = balancer.apply(ALL[::-1])
    assert outcome.transaction == "none", outcome.diff


def test_without_services_nothing_is_made(balancer: Balancer) -> None:
    before = balancer.snapshot()
    outcome = balancer.apply([])
    assert (outcome.changed, outcome.transaction, outcome.services) == (False, "none", 0)
    assert balancer.snapshot() == before


def test_forwarding_is_turned_on_for_the_families_in_use(balancer: Balancer) -> None:
    assert balancer.snapshot()["ipv4/ip_forward"].strip() == "0"
    outcome = balancer.apply(PLAIN[:1], forwarding=False)
    assert balancer.snapshot()["ipv4/ip_forward"].strip() == "0"
    assert "ip_forward" not in outcome.diff
    outcome = balancer.apply(PLAIN[:1])
    assert outcome.changed
    assert "ip_forward" in outcome.diff
    seen = balancer.snapshot()
    assert (seen["ipv4/ip_forward"].strip(), seen["ipv6/conf/all/forwarding"].strip()) == ("1", "0")
    balancer.apply(PLAIN[:2])
    assert balancer.snapshot()["ipv6/conf/all/forwarding"].strip() == "1"


@pytest.mark.engines("nftables", "iptables-nft", "iptables-legacy")
def test_one_engine_after_another(balancer: Balancer) -> None:
    """What an earlier run left with the other engine goes, and connections find a backend with each."""
    wanted = [PLAIN[0], GUARDED[2]]
    others = [("nftables", None), ("iptables", "nft"), ("iptables", "legacy")]
    for engine, variant in others:
        balancer.apply(wanted, engine=engine, iptables_variant=variant)
        assert balancer.tally(count=10) == {"web1": 5, "web2": 3, "web3": 2}
        outcome = balancer.apply(wanted)
        assert balancer.tally(count=10) == {"web1": 5, "web2": 3, "web3": 2}
        assert outcome.engine == balancer.engine
        assert not balancer.apply(wanted).changed
    balancer.remove()
    assert balancer.ours_left() == []


def test_thousands_of_services_come_and_go_at_once(balancer: Balancer) -> None:
    """With iptables their chains have a commit of their own: see iptables_restore._table_text."""
    few = [service()]
    many = [service(f"s{port}", listen=f"{VIP}:{port}", backends=webs(port=80)) for port in range(1000, 3200)]
    balancer.apply(few)
    before = balancer.snapshot()
    first = balancer.apply([*few, *many])
    assert (first.changed, first.transaction) == (True, "delta")
    assert not balancer.apply([*few, *many]).changed
    for port in (80, 1000, 3199):
        assert balancer.tally(f"{VIP}:{port}", 8) == dict.fromkeys(NAMES, 2)
    balancer.apply(few)
    assert balancer.snapshot() == before
