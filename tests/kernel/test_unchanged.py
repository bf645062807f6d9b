# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run that would change nothing is told without looking at the rules, and never where it would change something."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from _natlb.host.revision import Revision
from _natlb.plan import unchanged
from kernel_lab import drive, looking
from kernel_lab.balancer import Balancer, service, webs
from kernel_lab.topology import NAMES, VIP, VIP6
from shapes import BOTH
from test_rollback import undone

DECLARED = [
    service(),
    service("chance", listen=[f"{VIP}:81", f"[{VIP6}]:81"], method="random", backends=BOTH),
    service("guarded", listen=f"{VIP}:82", allow_from=["198.18.0.0/16"], backends=webs("web1")),
]
#: Programs that list rules.
LISTING = {"nft", "iptables-nft-save", "ip6tables-nft-save", "iptables-legacy", "ip6tables-legacy", "unshare", "sh"}


def seen(balancer: Balancer) -> Path:
    return balancer.etc.parent / "run" / "seen.json"


def doubt(balancer: Balancer) -> str:
    """Why the next run has to look at everything."""
    return str(json.loads(seen(balancer).read_text()).get("doubt", ""))


def run(balancer: Balancer, services: Any = None, **options: Any) -> tuple[Any, set[str]]:
    """A run, of DECLARED unless it is told other services, and the programs that it started."""
    options.setdefault("engine", balancer.engine)
    if balancer.variant:
        options.setdefault("iptables_variant", balancer.variant)
    outcome, programs = balancer.host.call(looking.balance, balancer._root, services or DECLARED, [], **options)
    return outcome, set(programs)


def settled(balancer: Balancer) -> Any:
    """Declared, and known to be so."""
    balancer.apply(DECLARED)
    outcome, _programs = run(balancer)
    assert not outcome.changed
    assert doubt(balancer) == ""
    return outcome


def test_the_second_run_lists_no_rules(balancer: Balancer) -> None:
    first = balancer.apply(DECLARED[2:])
    if balancer.variant != "legacy":
        assert doubt(balancer) == ""
    second, programs = run(balancer, DECLARED[2:])
    assert (second.changed, second.transaction, second.diff) == (False, "none", "")
    if balancer.variant == "legacy":
        # It has no number that grows, so its rules are read, but neither rendered nor compared.
        second, programs = run(balancer, DECLARED[2:])
        assert (second.changed, second.transaction, second.diff) == (False, "none", "")
        programs -= {"iptables-legacy", "ip6tables-legacy"}
    assert not programs & LISTING
    for name in ("engine", "services", "sysctls", "warnings"):
        assert getattr(second, name) == getattr(first, name)


def test_nothing_is_looked_at_in_check_mode_either(balancer: Balancer) -> None:
    settled(balancer)
    outcome, programs = run(balancer, check=True)
    assert not outcome.changed
    assert not programs & {"nft", "iptables-nft-save", "unshare"}


@pytest.mark.parametrize("engine", ["nftables", "iptables"])
def test_all_that_a_plan_reads_is_noted(lab: Any, tmp_path: Path, engine: str) -> None:
    """What was read without a note could change without being seen."""
    balancer = Balancer(lab, "nftables" if engine == "nftables" else "iptables-nft", tmp_path)
    services = [
        *DECLARED,
        service("bound", listen="*:83", interface="front"),
        service("none", snat="none", listen=f"{VIP}:84"),
    ]
    egress = [{"source": "10.0.0.0/24", "uplinks": [{"interface": "up1"}, {"interface": "up2.100"}]}]
    balancer.apply(services, egress)
    found = balancer.host.call(
        looking.unobserved, balancer._root, services, egress, balancer.variant or None, engine=engine, firewall="accept"
    )
    allowed = (
        "/dev/null",
        "/proc/self/",
        "/proc/sys/kernel/random/boot_id",
        "/usr/lib/python",
        "/usr/local/lib/python",
    )
    assert [item for item in found if not item.startswith(allowed) and "subprocess.Popen" not in item] == []
    programs = {item.split("'")[1].rpartition("/")[2] for item in found if "subprocess.Popen" in item}
    # Rules of nf_tables, which the number of commits tells of.
    assert programs <= {"nft", "iptables-nft-save", "ip6tables-nft-save", "iptables-nft", "ip6tables-nft", "unshare"}


# -- each of these has to be noticed ---------------------------------------------------------------------------------


def damage(balancer: Balancer) -> None:
    if balancer.nftables:
        balancer.host.run("nft", "delete element ip natlb slot_tcp { 192.0.2.10 . 80 . 0 }")
    else:
        balancer.host.run(f"iptables-{balancer.variant}", "-w", "-t", "nat", "-F", "NATLB.web.tcp")


def flush(balancer: Balancer) -> None:
    if balancer.variant == "legacy":
        balancer.host.run("iptables-legacy", "-w", "-t", "nat", "-F", "PREROUTING")
    else:
        balancer.host.run("nft", "flush", "ruleset")


def forwarding_off(balancer: Balancer) -> None:
    balancer.host.sysctl({"ipv4/ip_forward": 0})


def boot_file(balancer: Balancer) -> None:
    """As long as it was, and with the time that it had."""
    path = next(iter(sorted(balancer.etc.glob("current/ruleset*"))))
    status, text = path.stat(), path.read_text()
    path.write_text(text.replace("8", "9", 1))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def mode_of_a_file(balancer: Balancer) -> None:
    (balancer.etc / "boot").chmod(0o600)


def lost_file(balancer: Balancer) -> None:
    (balancer.etc / "boot").unlink()


@pytest.mark.parametrize("harm", [damage, flush, forwarding_off, boot_file, mode_of_a_file, lost_file])
def test_drift_is_repaired(balancer: Balancer, harm: Any) -> None:
    settled(balancer)
    harm(balancer)
    checked, _programs = run(balancer, check=True)
    outcome, _programs = run(balancer)
    assert (checked.changed, outcome.changed) == (True, True)
    assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)
    assert not run(balancer)[0].changed


def test_another_request_is_another_one(balancer: Balancer) -> None:
    settled(balancer)
    for options in ({"persist": False}, {"transit": "accept"}):
        assert run(balancer, **options)[0].changed, options
    assert run(balancer, DECLARED[:2])[0].changed


def test_the_warnings_are_those_that_a_whole_run_would_give(balancer: Balancer) -> None:
    """Of an address that leads nowhere, of an interface that is gone."""
    services = [*DECLARED, service("far", listen="203.0.113.77:80"), service("bound", listen="*:83", interface="gone0")]
    first = balancer.apply(services)
    balancer.apply(services)
    again, _programs = run(balancer, services)
    seen(balancer).unlink()
    whole, programs = run(balancer, services)
    assert programs & LISTING
    assert again.warnings == whole.warnings == first.warnings
    assert len(again.warnings) >= 2


def test_what_is_said_of_a_change_is_not_said_again(balancer: Balancer) -> None:
    """That more than half of the services goes is true once."""
    balancer.apply(DECLARED)
    first = balancer.apply(DECLARED[:1])
    again, _programs = run(balancer, DECLARED[:1])
    assert [warning for warning in first.warnings if "services of this host" in warning and "guarded" in warning]
    assert again.warnings == [warning for warning in first.warnings if "guarded" not in warning]


def test_what_warnings_depend_on_is_looked_at_again(balancer: Balancer) -> None:
    services = [*DECLARED, service("later", listen="*:83", interface="later0")]
    warned = balancer.apply(services).warnings
    assert run(balancer, services)[0].warnings == warned
    balancer.host.run("ip", "link", "add", "later0", "type", "veth", "peer", "name", "later1")
    without_link = run(balancer, services)[0].warnings
    assert [warning for warning in warned if warning not in without_link]
    balancer.host.run("ip", "address", "add", f"{VIP}/32", "dev", "lo")
    without_both = run(balancer, services)[0].warnings
    assert [warning for warning in without_link if warning not in without_both]


@pytest.mark.parametrize("boots", ["again", "in another namespace"])
def test_the_same_number_of_another_kernel(balancer: Balancer, boots: str) -> None:
    """After a reboot, or in a container that was started anew, commits are counted from one again."""
    settled(balancer)
    kept = json.loads(seen(balancer).read_text())
    boot, namespace, number = kept["revision"]
    kept["revision"] = ["another", namespace, number] if boots == "again" else [boot, namespace + 1, number]
    seen(balancer).write_text(json.dumps(kept))
    _outcome, programs = run(balancer)
    assert programs & LISTING


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"key": 1}',
        "\xff",
        '{"key": KEY, "revision": NOW}',
        '{"key": KEY, "revision": NOW, "seen": 7}',
        '{"key": KEY, "revision": NOW, "seen": [["no.such", [], ""]], "outcome": {}}',
        '{"key": KEY, "revision": NOW, "seen": [["host.sysctl.get", [1, 2], "x"]], "outcome": []}',
    ],
)
def test_a_damaged_record_is_none(balancer: Balancer, text: str) -> None:
    settled(balancer)
    kept = json.loads(seen(balancer).read_text())
    for name, value in (("KEY", kept["key"]), ("NOW", kept["revision"])):
        text = text.replace(name, json.dumps(value))
    seen(balancer).write_bytes(text.encode("latin-1"))
    damage(balancer)
    assert run(balancer)[0].changed
    assert not run(balancer)[0].changed


@pytest.mark.engines("nftables", "iptables-nft")
def test_a_commit_of_somebody_else_in_the_middle_of_a_run(balancer: Balancer) -> None:
    """It may have changed what was listed before it. So nothing is known after such a run."""
    options: dict[str, Any] = {"engine": balancer.engine, "iptables_variant": balancer.variant or None}
    line = "add table ip somebody"
    balancer.host.call(looking.commit_between, balancer._root, DECLARED, line, **options)
    assert "commit" in doubt(balancer)
    balancer.apply(DECLARED)
    line = "add chain ip somebody theirs"
    balancer.host.call(looking.commit_between, balancer._root, DECLARED[:2], line, **options)
    assert "commit" in doubt(balancer)


def test_a_run_that_is_killed_behind_its_commit(balancer: Balancer) -> None:
    """The record is of the run before it, and so is the number in it; or the request is another one."""
    settled(balancer)
    options: dict[str, Any] = {"engine": balancer.engine, "iptables_variant": balancer.variant or None}
    balancer.host.call(drive.die, balancer._root, "plan.apply.delete_stale", DECLARED[:2], **options)
    damage(balancer)
    assert run(balancer)[0].changed
    assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)


def test_a_change_that_went_back(balancer: Balancer) -> None:
    settled(balancer)
    balancer.apply(DECLARED[:1], rollback_after=1)
    undone(balancer)
    assert run(balancer, DECLARED[:1])[0].changed
    assert run(balancer)[0].changed


def test_a_change_that_was_confirmed(balancer: Balancer) -> None:
    outcome = balancer.apply(DECLARED[2:], rollback_after=30)
    balancer.host.call(drive.confirm, balancer._root, outcome.token)
    again, programs = run(balancer, DECLARED[2:], rollback_after=30)
    assert not again.changed
    if balancer.variant != "legacy":
        assert not programs & {"nft", "iptables-nft-save", "unshare"}


def test_one_that_waits_for_its_confirmation_is_waited_for(balancer: Balancer) -> None:
    """What it will have been asked for is known already, and not yet so."""
    balancer.apply(DECLARED, rollback_after=1)
    assert run(balancer, rollback_after=1)[0].changed


def test_a_removal_leaves_no_record(balancer: Balancer) -> None:
    settled(balancer)
    balancer.remove()
    assert not seen(balancer).exists()
    assert run(balancer)[0].changed


def test_commits_are_counted_as_the_kernel_does() -> None:
    """In 32 bits, without 0."""
    last = Revision("boot", 1, (1 << 32) - 1)
    assert last.after(0).generation == (1 << 32) - 1
    assert [last.after(n).generation for n in (1, 2)] == [1, 2]
    assert Revision("boot", 1, 5).after(3).generation == 8
    assert Revision("boot", 1, None).after(3).generation is None


def test_what_cannot_be_written_down_is_asked_for_anew() -> None:
    """Keys of two kinds, a key that is no text at all, and a list in itself."""
    circle: list[Any] = []
    circle.append(circle)
    assert (
        unchanged.asked({"services": [{1: "a", "b": 2}]}).key == unchanged.asked({"services": [{1: "a", "b": 2}]}).key
    )
    for services in ([{("a", "b"): 1}], circle):
        assert unchanged.asked({"services": services}).key != unchanged.asked({"services": services}).key
