# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept on the host, what is said about its sysctls, and what a diff looks like."""

from __future__ import annotations

import errno
import multiprocessing
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from _natlb.errors import HostError
from _natlb.host import store
from _natlb.model.entities import dump
from _natlb.model.services import parse_config
from _natlb.plan import forwarding, routing
from _natlb.plan.request import declared
from _natlb.ruleset.sections import Key, Section, unified
from _natlb.warnings import boot_settings
from hypothesis import given
from hypothesis import strategies as st

UPLINKS = [
    {
        "source": "10.0.0.0/24",
        "uplinks": [
            {"interface": "eth2", "gateway": "198.51.100.1", "weight": 2},
            {"interface": "eth1", "gateway": "203.0.113.1"},
        ],
    }
]


def test_a_file_is_replaced_in_one_step_and_only_root_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "state.json"
    store.write_text(path, "one")
    store.write_text(path, "two")
    assert path.read_text() == "two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [item.name for item in path.parent.iterdir()] == ["state.json"]


def test_a_failed_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    store.write_text(path, "old")

    def full(_unused: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(HostError, match="No space left on device; what was there is unchanged"):
        store.write_text(path, "new")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize(
    ("before", "after"), [(None, "new\n"), ("", "new\n"), ("old\n", "old\nnew\n"), ("ol", "ol\nnew\n")]
)
def test_a_line_that_is_added_begins_a_line(tmp_path: Path, before: str | None, after: str) -> None:
    path = tmp_path / "lines"
    if before is not None:
        path.write_text(before)
    store.append_text(path, "new\n")
    assert path.read_text() == after


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "\x00"])
def test_a_state_that_cannot_be_read_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    assert store.read_state(store.Paths(tmp_path, tmp_path)) == {}


def _hold(paths: store.Paths, held: Any, release: Any) -> None:
    with store.lock(paths):
        held.set()
        release.wait(10)


def test_a_second_run_waits_and_then_says_who_holds_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = store.Paths(tmp_path / "etc", tmp_path / "run")
    held, release = multiprocessing.Event(), multiprocessing.Event()
    holder = multiprocessing.Process(target=_hold, args=(paths, held, release))
    holder.start()
    assert held.wait(10)
    monkeypatch.setattr(store, "LOCK_TIMEOUT_S", 0.2)
    with pytest.raises(HostError, match=f"process {holder.pid}.*nothing was changed"), store.lock(paths):
        pass
    release.set()
    holder.join(10)
    with store.lock(paths):
        pass


def test_a_full_disk_keeps_nobody_from_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who holds it is told to others only where it can be written."""

    def full(*_what: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    paths = store.Paths(tmp_path / "etc", tmp_path / "run")
    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr(store, "LOCK_TIMEOUT_S", 0.1)
    with store.lock(paths), pytest.raises(HostError, match="process unknown"), store.lock(paths):
        pass


@pytest.mark.parametrize(
    ("path", "text", "warned"),
    [
        ("/etc/sysctl.d/90-hardening.conf", "net.ipv4.ip_forward = 0", False),
        ("/etc/sysctl.d/zzz.conf", "net.ipv4.ip_forward = 0", True),
        ("/etc/sysctl.d/zzz.conf", "-net/ipv4/ip_forward=0", True),
        ("/etc/sysctl.d/zzz.conf", "# net.ipv4.ip_forward = 0", False),
        ("/etc/sysctl.d/zzz.conf", "net.ipv4.ip_forward = 1", False),
        ("/etc/sysctl.d/zzz.conf", "net.ipv6.conf.all.forwarding = 0", False),
        ("/etc/sysctl.conf", "net.ipv4.ip_forward=0", True),
        ("/etc/sysctl.d/zzz.conf", "net.ipv6.conf.eth0/100.accept_ra=1", True),
        ("/etc/sysctl.d/zzz.conf", "net/ipv6/conf/eth0.100/accept_ra=0", True),
        ("/etc/sysctl.d/zzz.conf", "net/ipv6/conf/eth0.100/accept_ra=2", False),
        ("/etc/sysctl.d/zzz.conf", "net.ipv6.conf.eth0.accept_ra=0", False),
    ],
)
def test_a_later_file_that_turns_forwarding_off(path: str, text: str, warned: bool) -> None:
    wanted = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/eth0.100/accept_ra": "2"}
    warnings = boot_settings.overrides({path: text}, wanted)
    assert bool(warnings) == warned
    assert all(path in warning and "remove that line" in warning for warning in warnings)


def test_forwarding_follows_the_families_in_use() -> None:
    backends = [{"address": "2001:db8:2::3", "port": 80}]
    config = parse_config([{"name": "six", "listen": "[2001:db8::10]:80", "backends": backends}], UPLINKS)
    wanted = forwarding.settings(config, forwarding.Before(listening=("eth0",)))
    assert list(wanted.items()) == [
        ("net/ipv6/conf/eth0/accept_ra", "2"),
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
    ], "the kernel drops routes in the moment in which it begins to forward"
    assert routing.sysctls(config) == dict.fromkeys(
        ("net/ipv4/conf/eth1/src_valid_mark", "net/ipv4/conf/eth2/src_valid_mark"), "1"
    )


def test_routes_of_uplinks() -> None:
    wanted = routing.render(parse_config([], UPLINKS))
    assert {key[2:]: section.body for key, section in wanted.items()} == {
        ("rule", "24600"): ("not fwmark 0/0x3f000000 lookup main suppress_prefixlength 0",),
        ("rule", "24601"): ("fwmark 0x1000000/0x3f000000 lookup 24601",),
        ("route", "24601"): ("default via 203.0.113.1 dev eth1",),
        ("rule", "24602"): ("fwmark 0x2000000/0x3f000000 lookup 24602",),
        ("route", "24602"): ("default via 198.51.100.1 dev eth2",),
    }
    assert routing.batch(wanted, wanted) == {}
    lines = routing.batch(wanted, {})["ip"].splitlines()
    assert lines[0] == "rule delete pref 24600"
    assert lines[-1] == "route flush table 24602"


@pytest.mark.parametrize("mask", [None, "0x0ff00000"])
def test_what_is_kept_reads_back_as_what_was_declared(mask: Any) -> None:
    services = [
        {
            "name": "web",
            "listen": ["192.0.2.10:80", "[2001:db8::10]:80-90", "*:30080"],
            "protocol": ["udp", "tcp"],
            "affinity": "3h",
            "snat": ["192.0.2.20", "2001:db8::20"],
            "allow_from": ["198.51.100.0/25", "198.51.100.128/25"],
            "health": {"type": "http", "path": "/ok", "status": [200, 204], "port": 80, "interval": 5},
            "backends": [{"address": "10.0.0.3", "backup": "yes"}, {"address": "2001:DB8:2::0003", "weight": "5"}],
        }
    ]
    config = parse_config(services, UPLINKS, mask)
    assert declared(dump(config)) == config


def test_a_diff_shows_sections_and_only_what_differs() -> None:
    chain, elements = Key("ip", "natlb", "chain", "c"), Key("ip", "natlb", "map", "m")
    live = {chain: Section((), ("a", "b")), elements: Section(("type x",), tuple(f"{i:04}" for i in range(3000)))}
    wanted = {chain: Section((), ("a", "c")), elements: Section(("type x",), (*live[elements].body[1:], "new"))}
    assert unified(live, live) == ""
    assert unified(live, wanted).splitlines() == [
        "--- ip natlb chain c",
        "+++ ip natlb chain c",
        "@@ -2 +2 @@",
        "-b",
        "+c",
        "--- ip natlb map m",
        "+++ ip natlb map m",
        "@@ -1 +1 @@",
        "-0000",
        "+new",
    ]
    assert unified({}, {chain: Section((), ())}) == "--- /dev/null\n+++ ip natlb chain c\n"


TABLE = Key("ip", "natlb", "map", "source_hash_tcp.7qk")


def slots(*targets: int) -> Section:
    return Section(
        ("type integer : verdict",), tuple(sorted(f"{i} : goto hash_tcp_{n}" for i, n in enumerate(targets)))
    )


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        # As many slots as before, and others.
        (
            slots(*[1, 2, 3] * 400),
            slots(*[2, 1, 3] * 400),
            [
                "-goto hash_tcp_1: 400 slots",
                "+goto hash_tcp_1: 400 slots, 400 of them others",
                "-goto hash_tcp_2: 400 slots",
                "+goto hash_tcp_2: 400 slots, 400 of them others",
            ],
        ),
        (
            slots(*[1, 2, 3] * 400),
            slots(*[1, 2, 1] * 400),
            [
                "-goto hash_tcp_1: 400 slots",
                "+goto hash_tcp_1: 800 slots, 400 of them others",
                "-goto hash_tcp_3: 400 slots",
            ],
        ),
        (
            None,
            slots(*[1, 2] * 40),
            ["+type integer : verdict", "+goto hash_tcp_1: 40 slots", "+goto hash_tcp_2: 40 slots"],
        ),
        (slots(*[1] * 40), None, ["-type integer : verdict", "-goto hash_tcp_1: 40 slots"]),
        # A few are shown by themselves, however many there are.
        (
            slots(*[1] * 4000),
            slots(*[1] * 3999, 2),
            ["@@ -1 +1 @@", "-3999 : goto hash_tcp_1", "+3999 : goto hash_tcp_2"],
        ),
    ],
)
def test_a_diff_counts_the_slots_of_a_hash(before: Section | None, after: Section | None, lines: list[str]) -> None:
    live, wanted = ({TABLE: each} if each else {} for each in (before, after))
    title = "ip natlb map source_hash_tcp.7qk"
    names = [f"--- {title if before else '/dev/null'}", f"+++ {title if after else '/dev/null'}"]
    assert unified(live, wanted).splitlines() == [*names, *lines]


@given(st.lists(st.integers(0, 3), min_size=40, max_size=60), st.lists(st.integers(0, 3), min_size=40, max_size=60))
def test_tables_that_differ_are_never_shown_as_equal(one: list[int], other: list[int]) -> None:
    live, wanted = {TABLE: slots(*one)}, {TABLE: slots(*other)}
    assert bool(unified(live, wanted)) == (one != other)
    assert any(line[0] in "+-" and line[:3] not in ("+++", "---") for line in unified(live, wanted).splitlines()) == (
        one != other
    )
