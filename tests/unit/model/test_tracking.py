# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The size of the connection tracking table, how full it is, and addresses that no packet comes to."""

from __future__ import annotations

from typing import Any

import pytest
from _natlb.errors import ConfigErrors
from _natlb.model import tracking

GIB = 1 << 30
MAX, BUCKETS = "net/netfilter/nf_conntrack_max", "net/netfilter/nf_conntrack_buckets"


@pytest.mark.parametrize(
    ("declared", "memory", "current", "wanted"),
    [
        (None, GIB, {}, {}),
        ({}, GIB, {}, {}),
        ({"max": "auto"}, 8 * GIB, {MAX: 262144, BUCKETS: 262144}, {MAX: "524288", BUCKETS: "524288"}),
        # Nothing is ever made smaller, and what was enlarged stays in the file for the next boot.
        ({"max": "auto"}, GIB, {MAX: 262144, BUCKETS: 65536}, {MAX: "262144", BUCKETS: "262144"}),
        ({"max": "auto"}, 1024 * GIB, {}, {MAX: "4194304", BUCKETS: "4194304"}),
        ({"max": 100000}, GIB, {MAX: 262144, BUCKETS: 4096}, {MAX: "100000", BUCKETS: "100352"}),
        ({"max": "100000", "buckets": 2000}, GIB, {}, {MAX: "100000", BUCKETS: "2048"}),
        ({"buckets": 1024}, GIB, {MAX: 5, BUCKETS: 7}, {BUCKETS: "1024"}),
        (
            {"timeouts": {"tcp_established": "1h", "udp": 20}},
            GIB,
            {},
            {
                "net/netfilter/nf_conntrack_tcp_timeout_established": "3600",
                "net/netfilter/nf_conntrack_udp_timeout": "20",
            },
        ),
    ],
)
def test_settings(declared: Any, memory: int, current: dict[str, int], wanted: dict[str, str]) -> None:
    assert tracking.settings(tracking.parse_tracking(declared), memory, current) == wanted


@pytest.mark.parametrize(("page", "buckets"), [(4096, "100352"), (16384, "100352"), (65536, "106496")])
def test_buckets_are_whole_pages_of_pointers(page: int, buckets: str) -> None:
    """With pages of 64 KiB a number that the kernel rounds up itself would never be reached."""
    wanted = tracking.settings(tracking.parse_tracking({"max": 100000}), GIB, {}, page)
    assert wanted[BUCKETS] == buckets


@pytest.mark.parametrize("gib", [1, 2, 3, 4, 6, 8, 15, 16, 31, 32, 48, 63])
def test_another_kernel_makes_no_other_table(gib: int) -> None:
    """What it keeps for itself is some megabytes more or less; a run after it has nothing to change."""
    auto = tracking.parse_tracking({"max": "auto"})
    total = gib * GIB - gib * (GIB // 64)
    first = tracking.settings(auto, total, {})
    now = {name: int(value) for name, value in first.items()}
    for more in (-(8 << 20), -4096, 4096, 8 << 20):
        assert tracking.settings(auto, total + more, now) == first
    assert int(first[MAX]) >= total // tracking.BYTES_PER_ENTRY


@pytest.mark.parametrize(
    ("declared", "path"),
    [
        ([], "conntrack"),
        ({"size": 5}, "conntrack.size"),
        ({"max": 0}, "conntrack.max"),
        ({"max": "all"}, "conntrack.max"),
        ({"max": "auto", "buckets": 4096}, "conntrack.buckets"),
        ({"buckets": 5}, "conntrack.buckets"),
        ({"timeouts": {"icmp": 5}}, "conntrack.timeouts.icmp"),
        ({"timeouts": {"udp": "never"}}, "conntrack.timeouts.udp"),
    ],
)
def test_bad_input(declared: Any, path: str) -> None:
    assert [error.path for error in refused(declared).errors] == [path]


def refused(declared: Any) -> ConfigErrors:
    with pytest.raises(ConfigErrors) as caught:
        tracking.parse_tracking(declared)
    return caught.value


def test_all_that_is_wrong_is_told_at_once() -> None:
    declared = {"maxx": 1, "max": "all", "buckets": None, "timeouts": {"tcp": 3, "udp": "never", "udp_stream": None}}
    assert [error.path for error in refused(declared).errors] == [
        "conntrack.maxx",
        "conntrack.buckets",
        "conntrack.max",
        "conntrack.timeouts.tcp",
        "conntrack.timeouts.udp_stream",
        "conntrack.timeouts.udp",
    ]


def test_losses_of_all_processors_are_added_up() -> None:
    text = "entries  searched insert_failed drop early_drop\n0000000a 00 01 02 00\n0000000a 00 0f 00 10\n"
    assert tracking.statistics(text) == {"drop": 2, "early_drop": 16, "insert_failed": 16}
    assert tracking.statistics("") == {"drop": 0, "early_drop": 0, "insert_failed": 0}


@pytest.mark.parametrize(
    ("count", "most", "warned"), [(79, 100, False), (80, 100, True), (100, 100, True), (5, 0, False)]
)
def test_a_table_that_is_nearly_full(count: int, most: int, warned: bool) -> None:
    warning = tracking.fill_warning(count, most)
    assert (warning is not None) == warned
    assert warning is None or f"{count} % full ({count} of {most})" in warning
