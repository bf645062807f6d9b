# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures for tests on real Debian hosts: a virtual machine between the kernel lab's client and backends."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
for folder in (HERE.parents[1] / "plugins" / "module_utils", HERE.parent, HERE.parent / "kernel", HERE):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import image  # noqa: E402
from controller import Controller  # noqa: E402
from kernel_lab.topology import Lab  # noqa: E402
from machine import Machine  # noqa: E402
from processes import require  # noqa: E402

PROGRAMS = ("qemu-system-x86_64", "qemu-img", "mmdebstrap", "mke2fs", "ssh", "setpriv", "ip")
SUITES = ("bookworm", "trixie")


@pytest.fixture(scope="session")
def _able() -> None:
    require(PROGRAMS, "tests/hosts start virtual machines", "make hosts installs it")


@pytest.fixture(scope="session")
def lab(_able: None) -> Iterator[Lab]:
    with contextlib.closing(Lab()) as lab:
        yield lab


@pytest.fixture(scope="module", params=SUITES)
def machine(request: pytest.FixtureRequest, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A host of each release, as it was installed."""
    machine = Machine(image.build(request.param), lab, tmp_path_factory.mktemp(request.param))
    machine.start()
    machine.save("installed")
    yield machine
    machine.stop()


@pytest.fixture(scope="module")
def controller(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Controller:
    return Controller(machine, tmp_path_factory.mktemp("controller"))
