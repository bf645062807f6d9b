# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drift is what a run with the same request would change: the whole request, and whatever became of its file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from _natlb.plan import balance
from kernel_lab.balancer import Balancer, service, webs
from kernel_lab.topology import NAMES, VIP

SERVICES = [service(), service("dns", listen=f"{VIP}:53", protocol="udp")]


def test_forwarding_that_nobody_asked_for(balancer: Balancer) -> None:
    balancer.host.sysctl({"ipv4/ip_forward": 0})
    balancer.apply(SERVICES, forwarding=False)
    found = balancer.info()
    assert (found["drift"], found["forwarding"]) == (False, False)


def test_a_timeout_that_somebody_else_has_set(balancer: Balancer) -> None:
    balancer.apply(SERVICES, conntrack={"timeouts": {"udp": 25}})
    assert not balancer.info()["drift"]
    balancer.host.sysctl({"netfilter/nf_conntrack_udp_timeout": 31})
    assert balancer.info()["drift"]
    assert balancer.apply(SERVICES, conntrack={"timeouts": {"udp": 25}}).changed
    assert not balancer.info()["drift"]


@pytest.mark.parametrize("persist", [True, False])
def test_a_choice_that_was_left_to_the_host(balancer: Balancer, persist: bool) -> None:
    balancer.apply(SERVICES, engine="auto", persist=persist)
    assert not balancer.info()["drift"]


def test_settings_that_cannot_be_written_here(balancer: Balancer) -> None:
    """It is drift that a run could not put right; to look at the host is still possible."""
    balancer.apply(SERVICES)
    balancer.host.sysctl({"ipv4/ip_forward": 0})
    script = (
        "import json, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from _natlb.host import store\nfrom _natlb.status import info\n"
        "root = Path(sys.argv[2])\n"
        "print(json.dumps(info.info(paths=store.Paths(root / 'etc', root / 'run'), iptables_variant=sys.argv[3])))\n"
    )
    argv = [sys.executable, "-c", script, str(Path(balance.__file__).parents[2]), str(balancer.etc.parent)]
    read_only = 'mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"'
    text = balancer.host.run("unshare", "--mount", "sh", "-c", read_only, "sh", *argv, balancer.variant)
    found: Any = json.loads(text)
    assert (found["drift"], found["forwarding"]) == (True, False)
    assert any("ip_forward is 0 and cannot be written here" in warning for warning in found["warnings"])


@pytest.mark.parametrize(
    "state", [b'{"services": null}', b"\xff\xfe", b'{"services": [{"name": "\xff"}]}', b"{", b"[]", b"\r\n"]
)
def test_a_damaged_file_is_drift_and_is_written_anew(balancer: Balancer, state: bytes) -> None:
    balancer.apply(SERVICES)
    path = balancer.etc / "state.json"
    good = path.read_bytes()
    path.write_bytes(state)
    found = balancer.info()
    assert found["drift"]
    assert any("not all of it can be read" in warning for warning in found["warnings"])
    assert balancer.apply(SERVICES, check=True).changed
    assert balancer.apply(SERVICES).changed
    assert path.read_bytes() == good
    assert not balancer.info()["drift"]
    assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)


@pytest.mark.parametrize("name", ["state.json", "boot"])
def test_other_ends_of_lines_are_drift(balancer: Balancer, name: str) -> None:
    """`sh` stops at a carriage return, so such a boot script boots nothing."""
    balancer.apply([service(backends=webs("web1"))])
    path = balancer.etc / name
    good = path.read_bytes()
    path.write_bytes(good.replace(b"\n", b"\r\n"))
    assert balancer.info()["drift"]
    assert name in balancer.apply([service(backends=webs("web1"))]).diff
    assert path.read_bytes() == good
