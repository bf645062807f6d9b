# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything is taken away, also where the programs that made it are not there any more."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from _natlb.plan import balance
from kernel_lab import run_once
from kernel_lab.balancer import Balancer, service

#: What a host has that has neither nft nor iptables.
KEPT = ("ip", "sh", "unshare", "sysctl", "conntrack")


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("programs")
    for name in KEPT:
        (folder / name).symlink_to(shutil.which(name) or name)
    return str(folder)


def remove(balancer: Balancer, path: str, **options: Any) -> dict[str, Any]:
    """One run in a process of its own, with this search path."""
    return run(balancer, path, services=[], options={"state": "absent", **options})


def run(balancer: Balancer, path: str, **request: Any) -> dict[str, Any]:
    root = str(balancer.etc.parent)
    request["set"] = {"host.processes.PATH": path}
    argv = [sys.executable, run_once.__file__, str(Path(balance.__file__).parents[2]), root]
    return dict(json.loads(balancer.host.run(*argv, stdin=json.dumps(request))))


def test_without_any_program(balancer: Balancer, path: str) -> None:
    balancer.apply([service()])
    assert list(balancer.etc.iterdir())
    said = remove(balancer, path, engine=balancer.engine)
    assert "neither nft nor iptables is installed any more" in said["warnings"][0]
    assert not balancer.etc.exists(), "nothing boots any more"
    assert balancer.ours_left(), "nobody could take the rules away"
    assert remove(balancer, path)["transaction"] == "none"
    balancer.remove()
    assert balancer.ours_left() == []


@pytest.mark.parametrize("others", [False, True], ids=["no program", "the other engine's"])
def test_a_host_that_cannot_be_read_any_more_says_what_to_install(balancer: Balancer, path: str, others: bool) -> None:
    """Also where nothing is known of what was declared: the rules are there all the same."""
    balancer.apply([service()])
    if others:
        provide(path, not balancer.nftables)
    program = "nft" if balancer.nftables else "iptables"
    assert run(balancer, path, look=True) == {
        "error": f"{program} is no longer installed, so the rules of {balancer.engine} cannot be read "
        f"(install the package {balancer.engine}, or run natlb.netfilter.deploy, which installs it)"
    }
    for folder in ("etc", "run"):
        shutil.rmtree(balancer.etc.parent / folder)
    found = run(balancer, path, look=True)
    assert "error" not in found, found
    assert others or "neither nft nor iptables is installed" in found["warnings"][0]


def provide(path: str, nftables: bool, variant: str = "nft") -> None:
    """The programs of an engine, in the search path."""
    for program in ("nft",) if nftables else ("iptables", f"iptables-{variant}"):
        for family in (program, program.replace("ip", "ip6", 1)):
            for name in (family, f"{family}-save", f"{family}-restore"):
                found = shutil.which(name)
                if found and not Path(path, name).exists():
                    Path(path, name).symlink_to(found)


def test_without_the_program_that_is_asked_for(balancer: Balancer, path: str) -> None:
    balancer.apply([service()])
    provide(path, balancer.nftables, balancer.variant)
    asked = "iptables" if balancer.nftables else "nftables"
    assert remove(balancer, path, engine=asked)["transaction"] == "remove"
    assert balancer.ours_left() == []
