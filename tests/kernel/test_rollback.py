# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A change that nobody confirms undoes itself; one that is confirmed stays, now and at boot."""

from __future__ import annotations

import json
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from _natlb.errors import HostError
from kernel_lab import drive
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.drive import Contents, contents
from kernel_lab.topology import NAMES, VIP, VIP6
from shapes import ALL, BOTH, CHANGED, EGRESS, LISTED, LISTS, OTHER_LISTS
from test_egress import by_weight
from test_foreign import settle

AFTER_S = 2
#: How long to wait for the last rule after the timer. A deadline, far from the tenth of a second that it takes.
MARGIN_S = 30.0
DUAL = [service(), service("dual", listen=[f"{VIP}:81", f"[{VIP6}]:81"], backends=BOTH)]
OTHER = [service(backends=webs("web2")), service("late", listen=[f"{VIP}:94", f"[{VIP6}]:94"], backends=BOTH)]


@dataclass
class Seen:
    """All of a host that a run may change: rules (whatever order chains were made in), and files that boot."""

    rules: Contents
    foreign: dict[str, str]
    files: dict[str, tuple[bytes | str, int]]


def look(balancer: Balancer) -> Seen:
    return Seen(contents(balancer.snapshot()), balancer.foreign(), kept(balancer.etc))


def kept(etc: Path) -> dict[str, tuple[bytes | str, int]]:
    """Files and links, by their names. The folder of the set that boots is called current, whatever its name."""
    found: dict[str, tuple[bytes | str, int]] = {}
    for path in sorted(etc.rglob("*")):
        name = str(path.relative_to(etc))
        if path.is_symlink():
            found[name] = (str(path.readlink()), path.lstat().st_mode)
        elif path.is_file():
            found[name] = (path.read_bytes(), path.stat().st_mode)
    folder = str(found.pop("current", ("", 0))[0])
    return {name.replace(folder, "current", 1) if folder else name: entry for name, entry in found.items()}


def root(balancer: Balancer) -> Path:
    return balancer.etc.parent


def confirm(balancer: Balancer, token: str) -> None:
    balancer.host.call(drive.confirm, str(root(balancer)), token)


def waiting(balancer: Balancer) -> bool:
    return any(root(balancer).glob("run/rollback.*"))


def undone(balancer: Balancer, within_s: float = AFTER_S + MARGIN_S) -> None:
    """Wait until the host has gone back; fails where it does not in time."""
    deadline = time.monotonic() + within_s
    while waiting(balancer):
        assert time.monotonic() < deadline, f"still waiting after {within_s} s"
        time.sleep(0.02)
    told = root(balancer) / "run" / "undone"
    assert "UTC" in told.read_text()
    assert stat.S_IMODE(told.stat().st_mode) == 0o600


def complaints(balancer: Balancer) -> list[str]:
    return (root(balancer) / "run" / "undone").read_text().splitlines()[1:]


def try_out(balancer: Balancer, services: list[Mapping], egress: Any = (), **options: Any) -> Any:
    outcome = balancer.apply(services, egress, rollback_after=AFTER_S, **options)
    assert outcome.changed
    assert outcome.token
    return outcome


#: Services, egress, and lists of networks.
CHANGES: dict[str, tuple[list[Mapping], list[Mapping], Mapping]] = {
    "one service": (DUAL, [], {}),
    "another": (OTHER, [], {}),
    "all": (ALL, EGRESS, {}),
    "changed": (CHANGED, EGRESS[:1], {}),
    "lists": (LISTED, [], LISTS),
    "other lists": (LISTED, [], OTHER_LISTS),
    "nothing": ([], [], {}),
}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("nothing", "all"),
        ("all", "changed"),
        ("changed", "all"),
        ("one service", "another"),
        ("lists", "other lists"),
        ("all", "nothing"),
    ],
)
def test_nobody_confirms(balancer: Balancer, before: str, after: str) -> None:
    for place in ("nft", "iptables-nft", "iptables-legacy"):
        settle(balancer, place)
    (first, outward, lists), (services, egress, networks) = CHANGES[before], CHANGES[after]
    if before != "nothing":
        balancer.apply(first, outward, networks=lists)
    was = look(balancer)
    started = time.monotonic()
    options = {"state": "absent"} if after == "nothing" else {}
    try_out(balancer, services, egress, networks=networks, **options)
    now = look(balancer)
    assert now.rules != was.rules
    assert now.files == was.files, "the next boot must not know of what is not confirmed"
    undone(balancer, AFTER_S + MARGIN_S - (time.monotonic() - started))
    assert complaints(balancer) == []
    assert look(balancer) == was
    if before != "nothing":
        again = balancer.apply(first, outward, networks=lists)
        assert (again.changed, again.transaction) == (False, "none")


def test_confirmed(balancer: Balancer) -> None:
    balancer.apply(DUAL)
    before = look(balancer)
    outcome = try_out(balancer, OTHER)
    assert look(balancer).files == before.files
    confirm(balancer, outcome.token)
    kept = look(balancer)
    assert kept.files != before.files
    time.sleep(AFTER_S + 0.5)
    assert look(balancer) == kept
    assert not waiting(balancer)
    again = balancer.apply(OTHER, rollback_after=AFTER_S)
    assert (again.changed, again.token) == (False, "")
    assert balancer.tally(count=4) == {"web2": 4}


def test_undone_at_once(balancer: Balancer) -> None:
    """The controller has found that the change is wrong, long before the time is over."""
    balancer.apply(DUAL)
    was = look(balancer)
    outcome = balancer.apply(OTHER, rollback_after=300)
    balancer.host.call(drive.hold, str(root(balancer)), outcome.token)
    balancer.host.call(drive.undo, str(root(balancer)), outcome.token)
    undone(balancer, 0)
    assert complaints(balancer) == []
    assert look(balancer) == was
    again = balancer.apply(DUAL)
    assert (again.changed, again.transaction) == (False, "none")
    for late in (drive.confirm, drive.undo, drive.hold):
        with pytest.raises(HostError, match=r"not pending|went back to its former rules"):
            balancer.host.call(late, str(root(balancer)), outcome.token)


def test_held_it_waits_longer_and_then_goes_back(balancer: Balancer) -> None:
    """The controller came back over a new connection, and was lost while it verified the change."""
    balancer.apply(DUAL)
    was = look(balancer)
    started = time.monotonic()
    outcome = try_out(balancer, OTHER)
    for _twice in range(2):
        balancer.host.call(drive.hold, str(root(balancer)), outcome.token, AFTER_S)
    undone(balancer)
    assert time.monotonic() - started > AFTER_S * 2
    assert complaints(balancer) == []
    assert look(balancer) == was


def test_held_it_can_be_confirmed_later(balancer: Balancer) -> None:
    balancer.apply(DUAL)
    outcome = try_out(balancer, OTHER)
    balancer.host.call(drive.hold, str(root(balancer)), outcome.token)
    time.sleep(AFTER_S + 0.5)
    assert waiting(balancer)
    confirm(balancer, outcome.token)
    assert balancer.tally(count=4) == {"web2": 4}


def test_what_waits_is_read_by_what_it_declares(balancer: Balancer) -> None:
    """Before it is confirmed: by the declaration that is kept, its rules differ from what was declared."""
    balancer.apply(DUAL)
    outcome = balancer.apply(OTHER, rollback_after=300)
    balancer.tally(count=4)
    found = balancer.info(pending=True)
    assert [item["name"] for item in found["services"]] == [item["name"] for item in OTHER]
    assert found["drift"] is False
    assert [backend["new_connections"] for backend in found["services"][0]["backends"]] == [4]
    assert balancer.info()["drift"] is True
    confirm(balancer, outcome.token)
    assert balancer.info(pending=True)["drift"] is False
    assert balancer.info() == balancer.info(pending=True)


def test_a_confirmed_removal_leaves_nothing(balancer: Balancer) -> None:
    balancer.apply(DUAL)
    outcome = balancer.remove(rollback_after=AFTER_S)
    assert balancer.etc.exists()
    confirm(balancer, outcome.token)
    assert list(root(balancer).iterdir()) == []
    assert balancer.ours_left() == []


def test_confirmed_too_late(balancer: Balancer) -> None:
    outcome = try_out(balancer, DUAL)
    undone(balancer)
    with pytest.raises(HostError, match=r"nobody confirmed the change in time.*former rules \(20..-.*UTC\)"):
        confirm(balancer, outcome.token)


@pytest.mark.parametrize("token", ["0123456789abcdef", "../../etc", "", "a b"])
def test_a_token_of_nobody(balancer: Balancer, token: str) -> None:
    balancer.apply([])
    with pytest.raises(HostError, match=r"not a token|not pending"):
        confirm(balancer, token)


def test_another_run_waits(balancer: Balancer) -> None:
    """It plans with what is there when the first is settled, not with rules that are about to go."""
    balancer.apply(DUAL)
    try_out(balancer, OTHER)
    outcome = balancer.apply(ALL)
    assert outcome.changed
    assert not balancer.apply(ALL).changed
    assert (root(balancer) / "run" / "undone").exists()


def test_another_run_waits_for_the_confirmation(balancer: Balancer) -> None:
    outcome = balancer.apply(DUAL, rollback_after=30)
    second = balancer.host.begin(
        drive.balance, str(root(balancer)), OTHER, engine=balancer.engine, iptables_variant=balancer.variant or None
    )
    time.sleep(0.5)
    assert not second.done()
    confirm(balancer, outcome.token)
    assert second.result(10).changed
    assert not balancer.apply(OTHER).changed


def test_check_mode_does_not_wait(balancer: Balancer) -> None:
    outcome = balancer.apply(DUAL, rollback_after=30)
    assert balancer.apply(OTHER, check=True).changed
    assert waiting(balancer), "the other change has still to be confirmed"
    confirm(balancer, outcome.token)


def test_a_switch_of_the_engine(balancer: Balancer) -> None:
    other = "iptables" if balancer.nftables else "nftables"
    balancer.apply(DUAL)
    was = look(balancer)
    outcome = try_out(balancer, DUAL, engine=other, iptables_variant=None)
    assert outcome.engine == other
    undone(balancer)
    assert complaints(balancer) == []
    assert look(balancer) == was
    assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)


def test_uplinks(balancer: Balancer) -> None:
    balancer.lab.uplinks()
    balancer.apply(DUAL)
    was = look(balancer)
    try_out(balancer, DUAL, [by_weight(2, 1)])
    assert look(balancer).rules != was.rules
    undone(balancer)
    assert complaints(balancer) == []
    assert look(balancer) == was


def test_other_uplinks(balancer: Balancer) -> None:
    balancer.lab.uplinks()
    balancer.apply(DUAL, [by_weight(2, 1)])
    was = look(balancer)
    try_out(balancer, DUAL)
    undone(balancer)
    assert complaints(balancer) == []
    assert look(balancer) == was


def test_only_files_differ(balancer: Balancer) -> None:
    """Somebody has damaged what boots: there is no rule to undo, and still a confirmation to wait for."""
    balancer.apply(DUAL)
    good = look(balancer)
    (balancer.etc / "boot").write_text("broken\n")
    outcome = try_out(balancer, DUAL)
    confirm(balancer, outcome.token)
    assert look(balancer) == good


KILLED = [
    "plan.rollback.arm",
    "host.sysctl.write",
    "plan.apply.delete_stale",
    "plan.rollback._start",
    "host.store.write_text",
]


@pytest.mark.parametrize("after", KILLED)
def test_killed(balancer: Balancer, after: str) -> None:
    """Before the script runs, before the rules, after the rules: nobody confirms, so it ends with the former state."""
    balancer.apply([], EGRESS[-1:])
    was = look(balancer)
    options: dict[str, Any] = {"engine": balancer.engine, "rollback_after": AFTER_S}
    if balancer.variant:
        options["iptables_variant"] = balancer.variant
    status = balancer.host.call(drive.die, str(root(balancer)), after, DUAL, EGRESS, **options)
    assert status == -9
    if after == "plan.rollback._start" or any(root(balancer).glob("run/rollback.*/pending")):
        undone(balancer)
    assert look(balancer).rules.keys() >= was.rules.keys()
    now = look(balancer)
    now.rules[("ipv4/ip_forward",)] = was.rules[("ipv4/ip_forward",)]
    assert now == was
    assert balancer.apply(DUAL, EGRESS).changed
    assert not balancer.apply(DUAL, EGRESS).changed
    assert not list(root(balancer).rglob(".natlb-*"))


def test_the_script_is_lost(balancer: Balancer) -> None:
    """The next run does its work, instead of waiting for ever."""
    balancer.apply(DUAL)
    was = look(balancer)
    outcome = balancer.apply(OTHER, rollback_after=300)
    balancer.host.call(drive.put_off_the_undoing, str(root(balancer)))
    assert not balancer.apply(DUAL).changed
    assert look(balancer) == was
    with pytest.raises(HostError, match="nobody confirmed"):
        confirm(balancer, outcome.token)


def test_files_that_cannot_be_written_at_the_confirmation(balancer: Balancer) -> None:
    """The change stays unconfirmed, and the script does its work."""
    balancer.apply(DUAL)
    was = look(balancer)
    outcome = try_out(balancer, OTHER)
    staged = next(root(balancer).glob("run/rollback.*/staged.json"))
    change = json.loads(staged.read_text())
    change["files"]["no/where"] = ["", 0o600]
    staged.write_text(json.dumps(change))
    with pytest.raises(HostError, match=r"no/where: cannot be written"):
        confirm(balancer, outcome.token)
    undone(balancer)
    assert look(balancer) == was
