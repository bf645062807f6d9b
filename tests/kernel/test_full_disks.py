# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An operator drains a backend of a host whose disks are full: it holds, or it is an error that says what holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from _natlb.cli import single_file
from kernel_lab import drive
from kernel_lab.balancer import Balancer, service
from kernel_lab.topology import NAMES, VIP


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
    """Nothing more can be written there meanwhile."""
    balancer.host.run("sh", "-c", f"cat /dev/zero > {folder}/ballast; true", check=False)
    try:
        yield
    finally:
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
