# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures for tests on the real netfilter: one lab per test process, a fresh balancer per test, each engine."""

from __future__ import annotations

import contextlib
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
for folder in (HERE.parents[1] / "plugins" / "module_utils", HERE.parent, HERE):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from kernel_lab.balancer import ENGINES, Balancer  # noqa: E402
from kernel_lab.host import Host  # noqa: E402
from kernel_lab.topology import Lab  # noqa: E402
from processes import require  # noqa: E402

PROGRAMS = ("ip", "nft", "iptables-nft", "iptables-legacy", "conntrack")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "engines(*names): run with these engines only, instead of with all")
    config.addinivalue_line("markers", "slow: seconds under load; leave out with -m 'not slow' while at work")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "balancer" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("engines")
        metafunc.parametrize("balancer", marker.args if marker else _engines(metafunc.function.__name__), indirect=True)


def _engines(test: str) -> Sequence[str]:
    """The engines of a test that does not name its own: all of them; in the short form, which `make test` asks for, one
    test of four, always the same ones, meets iptables-legacy. That is iptables-nft with another program."""
    if os.environ.get("NATLB_KERNEL") == "short" and zlib.crc32(test.encode()) % 4:
        return [engine for engine in ENGINES if engine != "iptables-legacy"]
    return ENGINES


@pytest.fixture(scope="session")
def _able() -> None:
    require(PROGRAMS, "tests/kernel make network namespaces and load rules there", "install it")


@pytest.fixture(scope="session")
def _lab(_able: None) -> Iterator[Lab]:
    with contextlib.closing(Lab()) as lab:
        yield lab


@pytest.fixture(scope="session")
def _legacy(_able: None) -> bool:
    """Whether the kernel still has the old iptables."""
    host = Host("probe")
    try:
        host.run("iptables-legacy", "-t", "nat", "-S")
    except RuntimeError:
        return False
    finally:
        host.close()
    return True


@pytest.fixture
def lab(_lab: Lab) -> Lab:
    _lab.reset()
    return _lab


@pytest.fixture
def balancer(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path, _legacy: bool) -> Balancer:
    if request.param == "iptables-legacy" and not _legacy:
        pytest.skip("this kernel has no iptables-legacy")
    return Balancer(lab, request.param, tmp_path)
