# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An operator drains a backend of a host whose disks are full: it holds, or it is an error that says what holds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
from _natlb.cli import single_file
from kernel_lab import agent, drive
from kernel_lab.balancer import Balancer, Mapping, service
from kernel_lab.topology import NAMES, VIP
from test_agent import FAST, crashed, running


def installed(balancer: Balancer, rollback_after: int = 0, **keys: Any) -> Any:
    """A run that leaves the program."""
    options = {"program": single_file.text, "agent": True, "rollback_after": rollback_after}
    return balancer.apply([service(**keys)], **options)


WITHOUT = {name: 2 for name in NAMES if name != "web2"}
ALL = dict.fromkeys(NAMES, 2)


@contextlib.contextmanager
def small(balancer: Balancer, name: str) -> Iterator[str]:
    """/etc or /run of this balancer is a file system of 2 MiB."""
    folder = f"{balancer._root}/{name}"
    balancer.host.run("sh", "-c", f"mkdir -p {folder} && mount -t tmpfs -o size=2m,mode=700 full {folder}")
    try:
        yield folder
    finally:
        balancer.host.run("umount", "--lazy", folder)


@contextlib.contextmanager
def full(balancer: Balancer, folder: str) -> Iterator[None]:
    """Nothing more can be written there meanwhile, whatever others remove."""
    fill = f"cat /dev/zero 2>/dev/null >> {folder}/ballast"
    balancer.host.run("sh", "-c", f"{fill}; true")
    again = f"(while sleep 0.01; do {fill}; done) </dev/null >/dev/null 2>&1 & echo $!"
    filler = balancer.host.run("sh", "-c", again).strip()
    try:
        yield
    finally:
        balancer.host.run("sh", "-c", f"kill {filler}; while kill -0 {filler} 2>/dev/null; do sleep 0.01; done")
        balancer.host.run("rm", f"{folder}/ballast")


@pytest.mark.parametrize("name", ["etc", "run"])
def test_it_holds_or_is_an_error(balancer: Balancer, name: str) -> None:
    """What is kept of it is in /etc. A full /run only makes later runs slower."""
    with small(balancer, name) as folder:
        installed(balancer)
        with full(balancer, folder):
            status, out, err = balancer.natlb("drain", "web2")
            if name == "run":
                assert (status, out) == (0, "web2 of web: changed, 0 connections left\n"), err
                assert balancer.tally(count=6) == WITHOUT
                assert balancer.natlb("restore", "web2")[:2] == (0, "web2 of web: changed\n")
            else:
                assert (status, out) == (1, "")
                assert "overrides.json: cannot be written: No space left on device; what was there is unchanged" in err
            assert balancer.tally(count=8) == ALL
            assert not balancer.info()["drift"]
        assert balancer.natlb("drain", "web2")[0] == 0
        assert balancer.tally(count=6) == WITHOUT


@pytest.mark.parametrize("confirmed", [True, False], ids=["confirmed", "undone"])
@pytest.mark.parametrize("name", ["etc", "run"])
def test_while_a_change_waits_it_is_an_error_and_nothing_has_changed(
    balancer: Balancer, name: str, confirmed: bool
) -> None:
    """It has to hold for both declarations, so it has to be kept for both."""
    with small(balancer, name) as folder:
        installed(balancer)
        token = installed(balancer, listen=[f"{VIP}:80", f"{VIP}:82"], rollback_after=60).token
        with full(balancer, folder):
            status, out, err = balancer.natlb("drain", "web2")
            assert (status, out) == (1, "")
            assert "cannot be written: No space left on device; what was there is unchanged" in err
            assert balancer.tally(count=8) == ALL
        if confirmed:
            balancer.host.call(drive.confirm, balancer._root, token)
        else:
            # Only the balancer sees what is mounted.
            balancer.host.run("sh", "-c", f"sh {balancer._root}/run/rollback.*/undo 0")
        assert balancer.tally(count=8) == ALL
        assert not balancer.info()["drift"]
        assert balancer.natlb("drain", "web2")[:2] == (0, "web2 of web: changed, 0 connections left\n")
        assert balancer.tally(count=6) == WITHOUT


def until_served(balancer: Balancer, by: Mapping) -> None:
    """All connections are, by these alone."""
    give_up = time.monotonic() + 30
    while set(found := balancer.tally(count=8)) != set(by):
        assert time.monotonic() < give_up, found
        time.sleep(0.1)


@pytest.mark.parametrize("rollback_after", [0, 60], ids=["", "waits"])
def test_the_agent_takes_dead_backends_out_with_a_full_run(balancer: Balancer, rollback_after: int) -> None:
    """Whoever reads the host meanwhile does not bring them back, and what was found is kept once there is room."""
    with small(balancer, "run") as folder, running(balancer, service(health=FAST)) as here:
        if rollback_after:
            installed(balancer, listen=[f"{VIP}:80", f"{VIP}:82"], health=FAST, rollback_after=rollback_after)
        with crashed(balancer, "web2"):
            with full(balancer, folder):
                here.wait_for("cannot be written: No space left on device")
                # It says at each attempt what keeps a change that waits from being kept, and so that nothing is told.
                if not rollback_after:
                    here.wait_for("web2 of web is down")
                assert set(balancer.tally(count=6)) == set(WITHOUT)
                # It reads that file, and the agent puts right what it has made of it.
                assert balancer.natlb("apply")[0] == int(bool(rollback_after))
                until_served(balancer, WITHOUT)
            balancer.host.call(agent.wait_for_file, f"{folder}/health.json", '"down"')
            here.wait_for("web2 of web is down")
        here.wait_for("web2 of web is up", 2)
        assert balancer.tally(count=8) == ALL
