# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""After a reboot the kept files bring the same rules back, with no run."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernel_lab.balancer import Balancer, service
from kernel_lab.topology import INTERNET, NAMES, UPLINKS, VIP
from shapes import ALL, EGRESS
from test_egress import by_weight, out, ways

FORWARDING = {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1}


def reboot(balancer: Balancer, *scripts: str) -> None:
    """A namespace as new, the sysctl file's settings, and what the boot unit starts."""
    balancer.lab.reset()
    balancer.host.sysctl(FORWARDING)
    for script in scripts:
        balancer.host.run("sh", str(balancer.etc / script))


def test_the_rules_come_back(balancer: Balancer) -> None:
    balancer.apply(ALL, EGRESS)
    reboot(balancer)
    assert balancer.ours_left() == []
    balancer.host.run("sh", str(balancer.etc / "boot"))
    outcome = balancer.apply(ALL, EGRESS)
    assert (outcome.transaction, outcome.diff) == ("none", "")
    assert balancer.tally(f"{VIP}:53", 8) == dict.fromkeys(NAMES, 2)


def test_loading_twice_is_loading_once(balancer: Balancer) -> None:
    """As when a firewall's reload starts the unit again."""
    balancer.apply(ALL, EGRESS)
    reboot(balancer, "boot", "boot")
    outcome = balancer.apply(ALL, EGRESS)
    assert (outcome.transaction, outcome.diff) == ("none", "")


def test_thousands_of_services_come_back(balancer: Balancer) -> None:
    """With iptables their chains have a commit of their own."""
    many = [service(f"s{port}", listen=f"{VIP}:{port}") for port in range(1000, 3200)]
    balancer.apply(many)
    reboot(balancer, "boot", "boot")
    outcome = balancer.apply(many)
    assert (outcome.transaction, outcome.diff) == ("none", "")


def test_uplinks_come_back(balancer: Balancer) -> None:
    balancer.lab.uplinks()
    balancer.apply([service()], [by_weight(2, 1)])
    reboot(balancer)
    balancer.lab.uplinks()
    balancer.host.sysctl({f"ipv4/conf/{link}/src_valid_mark": 1 for link, _net in UPLINKS.values()})
    for _turn in range(2):
        balancer.host.run("sh", str(balancer.etc / "boot"))
        balancer.host.run("sh", str(balancer.etc / "boot-uplinks"))
    assert ways(out(balancer, f"{INTERNET}:80", 6)) == {"isp1": 4, "isp2": 2}
    assert not balancer.apply([service()], [by_weight(2, 1)]).changed


def test_what_is_kept_is_for_root_alone(balancer: Balancer) -> None:
    balancer.apply(ALL, EGRESS)
    kept = [path for path in balancer.etc.parent.rglob("*") if path.is_file()]
    assert kept
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept)
    balancer.remove()
    assert [path for path in balancer.etc.parent.rglob("*") if path.is_file()] == []


def test_without_persist_nothing_is_kept_for_the_next_boot(balancer: Balancer) -> None:
    balancer.apply(ALL, persist=False)
    assert _files(balancer.etc) == []
    assert balancer.apply(ALL, persist=False).transaction == "none"
    balancer.apply(ALL)
    assert "boot" in _files(balancer.etc)
    balancer.apply(ALL, persist=False)
    assert _files(balancer.etc) == []


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_kept_file_that_was_touched_is_put_right(balancer: Balancer, damage: str) -> None:
    balancer.apply(ALL)
    current = balancer.etc / "current"
    kept = {path.name: path.read_bytes() for path in current.iterdir()}
    assert {"boot", "state.json"} < kept.keys()
    for name, content in kept.items():
        path = current / name
        if damage == "missing":
            path.unlink()
        else:
            path.write_text("not ours\n")
        outcome = balancer.apply(ALL)
        assert outcome.changed
        assert name in outcome.diff
        assert outcome.transaction == "none", "the kernel was right all the time"
        assert path.read_bytes() == content
    assert not balancer.apply(ALL).changed


@pytest.mark.parametrize("name", ["boot", "state.json", "current"])
@pytest.mark.parametrize("damage", ["missing", "astray", "a file"])
def test_a_link_that_was_touched_is_put_right(balancer: Balancer, name: str, damage: str) -> None:
    balancer.apply(ALL)
    link = balancer.etc / name
    leads_to = link.readlink()
    link.unlink()
    if damage == "astray":
        link.symlink_to("nowhere")
    elif damage == "a file":
        link.write_text("not ours\n")
    outcome = balancer.apply(ALL)
    assert (outcome.changed, outcome.transaction) == (True, "none")
    assert link.readlink() == leads_to
    assert not balancer.apply(ALL).changed


def test_what_an_earlier_version_has_left_goes(balancer: Balancer) -> None:
    balancer.apply(ALL)
    (balancer.etc / "ruleset.nft").write_text("of before\n")
    assert balancer.apply(ALL).changed
    assert not (balancer.etc / "ruleset.nft").exists()
    assert len([path for path in balancer.etc.iterdir() if path.is_dir() and not path.is_symlink()]) == 1
