# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the next boot finds is switched as one: wherever a change is cut off, it is the old state or the new one."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from _natlb.errors import HostError
from _natlb.host import boot_set, staging, store
from boot_lab import UPLINKS, Host, interrupted

NOTHING: dict[str, Any] = {}
WEB = {"name": "web"}
API = {"name": "api", "egress": UPLINKS}
TABLES = {"name": "tables", "engine": "iptables", "egress": UPLINKS}
UNKEPT = {"name": "web", "persist": False}
CHANGES = {
    "the first": (NOTHING, WEB), "another": (WEB, API), "fewer": (API, WEB), "to iptables": (WEB, TABLES),
    "from iptables": (TABLES, WEB), "the last": (TABLES, NOTHING), "not kept any more": (API, UNKEPT),
}  # fmt: skip


def needs_of_rules_are_met(host: Host) -> bool:
    """The unit that loads the rules is there, comes up at boot, and may do what they need."""
    if not (host.paths.etc / "boot").exists():
        return True
    unit = host.unit("natlb.service")
    enabled = host.root / "etc/systemd/system/multi-user.target.wants/natlb.service"
    if not unit.exists() or not enabled.is_symlink():
        return False
    uplinks = host.unit("natlb-uplinks.service").exists() or not (host.paths.etc / "boot-uplinks").exists()
    modules = "CAP_SYS_MODULE" in unit.read_text()
    return uplinks and (modules or not (host.paths.etc / "current/ruleset.iptables").exists())


@pytest.mark.parametrize(("old", "new"), CHANGES.values(), ids=CHANGES)
def test_a_power_cut_at_any_moment_leaves_the_old_or_the_new(host: Host, old: Any, new: Any) -> None:
    seen: list[str] = []
    for at in itertools.count(1):
        host.run(**old)
        before = host.boots()
        _part, staged = host.plan(**new)
        ended = interrupted(lambda staged=staged: host.put(staged), at) == 0  # type: ignore[misc]
        left = host.boots()
        assert needs_of_rules_are_met(host), at
        host.run(**new)
        after = host.boots()
        assert left in (before, after), f"change {at} of the file system"
        seen.append("old" if left == before else "new")
        if ended:
            break
    assert before != after
    assert seen == sorted(seen, reverse=True), "it does not go back"
    assert {"old", "new"} == set(seen)
    assert len(seen) > 5
    assert not host.run(**new)
    assert not [name for name in host.files() if store.TEMPORARY in name]


@pytest.mark.parametrize("change", ["the first", "to iptables", "fewer", "the last"])
def test_an_error_at_any_moment_leaves_the_old(host: Host, change: str) -> None:
    """Or, where nothing but tidying up was left to do, the new."""
    old, new = CHANGES[change]
    host.run(**old)
    before = host.files()
    host.run(**new)
    after = host.files()
    for at in itertools.count(1):
        host.run(**old)
        _part, staged = host.plan(**new)
        error = OSError(5, "Input/output error")
        status = interrupted(lambda staged=staged: host.put(staged), at, error)  # type: ignore[misc]
        assert status in (0, 3), f"change {at} of the file system: status {status}"
        staging.remove_unfinished(host.paths)
        kept = {name: text for name, text in host.files().items() if "natlb/current" not in name}
        expected = before if status else after
        assert _same(kept, expected), f"change {at} of the file system"
        if not status and at > 30:
            break


def _same(found: dict[str, str], expected: dict[str, str]) -> bool:
    return found == {name: text for name, text in expected.items() if "natlb/current" not in name}


def test_a_staging_comes_back_from_json(host: Host) -> None:
    _part, staged = host.plan(**TABLES)
    assert staging.load(json.loads(json.dumps(staged.dump()))) == staged


@pytest.mark.parametrize("damage", ["changed", "missing", "more"])
def test_a_set_that_was_touched_is_made_anew(host: Host, damage: str) -> None:
    host.run(**WEB)
    good = host.boots()
    folder = boot_set.current(host.paths.etc)
    assert folder is not None
    if damage == "missing":
        (folder / "ruleset.nft").unlink()
    else:
        (folder / ("ruleset.nft" if damage == "changed" else "another")).write_text("not ours\n")
    assert host.run(**WEB)
    assert host.boots() == good
    assert not host.run(**WEB)
    assert [path.name for path in host.paths.etc.iterdir() if path.is_dir() and not path.is_symlink()] == [
        f"{folder.name}.1"
    ]


def test_folders_of_others_stay(host: Host) -> None:
    host.run(**WEB)
    (host.paths.etc / "mine").mkdir()
    host.run(**API)
    assert (host.paths.etc / "mine").is_dir()
    host.run(**NOTHING)
    assert [path.name for path in host.paths.etc.iterdir()] == ["mine"]


def test_a_full_disk_is_found_out_about_before_anything_is_in_place(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.run(**WEB)
    before = host.files()
    _part, staged = host.plan(**API)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "fsync", full)
        with (
            pytest.raises(HostError, match="No space left on device"),
            staging.prepared(host.paths, staged),
        ):
            pytest.fail("the body does not run")
    assert host.files() == before
    assert host.systemd.told[-1] != "daemon-reload"


def test_everything_goes_again(host: Host) -> None:
    before = sorted(host.root.rglob("*"))
    host.run(**TABLES)
    host.run(**NOTHING)
    assert sorted(host.root.rglob("*")) == before
    assert not host.run(**NOTHING)
    assert host.systemd.active == set()


def test_only_root_reads_what_is_kept(host: Host) -> None:
    host.run(**API)
    folder = boot_set.current(host.paths.etc)
    assert folder is not None
    assert [path.stat().st_mode & 0o077 for path in (host.paths.etc, folder, *folder.iterdir())].count(0) == 7
    assert Path(host.unit("natlb.service")).stat().st_mode & 0o777 == 0o644
