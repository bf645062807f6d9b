# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files and units of systemd: what is planned for which host, and that a plan is carried out whole."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from _natlb.errors import ConfigError, HostError
from _natlb.host import units
from _natlb.host.units import File, Found, Plan, Status, Unit

CHECKOUT = Path(__file__).resolve().parents[2]
FOLDER = "/etc/systemd/system"
SCRIPT = File("/usr/local/sbin/routes", "routes\n", 0o755)
SERVICE = File(f"{FOLDER}/routes.service", "unit\n")
FILES = (SCRIPT, SERVICE)
UNIT = Unit("routes.service", started=True)
FOLLOWER = Unit("routes.service", restart_after=(SCRIPT.path,), drift=(SCRIPT.path, "drift"))
BOTH = Unit("routes.service", started=True, restart_after=(SCRIPT.path,))
RIGHT = {SCRIPT.path: Found("routes\n", 0o755), SERVICE.path: Found("unit\n", 0o644)}
UP = Status(known=True, enabled=True, active=True)
NOTHING: dict[str, Found | None] = dict.fromkeys(RIGHT)


def present(
    unit: Unit,
    status: Status,
    drift: str = "",
    files: Sequence[File] = FILES,
    **found: Found | None,
) -> Plan:
    """The plan for a host that is right, but for the files `found` (by the last part of their names)."""
    there: Mapping[str, Found | None] = {
        path: found.get(Path(path).stem if path == SCRIPT.path else Path(path).suffix[1:], there)
        for path, there in RIGHT.items()
    }
    return units.presence(files, [unit], there, [status], {unit.name: drift})


def test_a_host_that_is_right_stays_as_it_is() -> None:
    plan = present(UNIT, UP)
    assert (plan.changed, plan.diff) == (False, [])


def test_a_new_host_gets_the_files_before_systemd_is_told_of_them() -> None:
    plan = present(UNIT, Status(), routes=None, service=None)
    assert plan.write == list(FILES)
    assert plan.before == []
    assert plan.after == [["daemon-reload"], ["enable", UNIT.name], ["start", UNIT.name]]
    assert [(part["before"], part["after"]) for part in plan.diff] == [
        ("", "routes\n"),
        ("", "unit\n"),
        ("disabled, inactive\n", "enabled, active\n"),
    ]


@pytest.mark.parametrize(
    ("unit", "status", "drift", "found", "commands"),
    [
        (UNIT, Status(known=True, active=True), "", {}, [["enable", UNIT.name]]),
        (UNIT, Status(known=True, enabled=True), "", {}, [["start", UNIT.name]]),
        (FOLLOWER, Status(known=True, enabled=True), "", {}, []),
        (UNIT, Status(known=True, enabled=True, active=True, stale=True), "", {}, [["daemon-reload"]]),
        (UNIT, UP, "", {"service": Found("old\n", 0o644)}, [["daemon-reload"], ["enable", UNIT.name]]),
        (UNIT, UP, "", {"routes": Found("old\n", 0o755)}, []),
        (FOLLOWER, UP, "", {"routes": Found("old\n", 0o755)}, [["restart", UNIT.name]]),
        (FOLLOWER, UP, "a rule is gone\n", {}, [["restart", UNIT.name]]),
        # A restart is a start as well.
        (BOTH, Status(known=True, enabled=True), "", {"routes": None}, [["restart", UNIT.name]]),
    ],
    ids=[
        "not-enabled", "not-active", "nobody-asked-to-start-it", "read-before-a-change", "its-own-file",
        "a-file-it-does-not-follow", "a-file-it-follows", "drift", "not-active-and-a-file-it-follows",
    ],
)  # fmt: skip
def test_commands_are_those_that_are_needed(
    unit: Unit, status: Status, drift: str, found: dict[str, Any], commands: list[list[str]]
) -> None:
    plan = present(unit, status, drift, **found)
    assert plan.after == commands
    assert plan.changed == bool(commands or found)


def test_drift_is_shown() -> None:
    assert present(FOLLOWER, UP, "a rule is gone\n").diff[0]["before"] == "a rule is gone\n"


def test_a_file_of_somebody_else_or_with_another_mode_is_taken_back() -> None:
    plan = present(UNIT, UP, routes=Found("routes\n", 0o777, (1000, 1000)))
    assert plan.write == [SCRIPT]
    (shown,) = plan.diff
    assert (shown["before"], shown["after"]) == ("mode 0777, owner 1000:1000\n", "mode 0755, owner 0:0\n")


def test_a_file_without_content_is_left_as_it_is() -> None:
    files = [File(SCRIPT.path), SERVICE]
    assert not present(UNIT, UP, files=files, routes=Found("theirs\n", 0o600)).changed
    assert not present(UNIT, UP, files=files, routes=None).changed


def test_a_removal_stops_what_it_removes_first() -> None:
    plan = units.absence(FILES, [UNIT], RIGHT, [UP])
    assert plan.before == [["stop", UNIT.name], ["disable", UNIT.name]]
    assert plan.remove == [SCRIPT.path, SERVICE.path]
    assert plan.after == [["daemon-reload"]]
    assert [part["after"] for part in plan.diff] == ["", "", "disabled, inactive\n"]


def test_without_systemd_there_are_only_files_to_take_away() -> None:
    plan = units.bare_absence(FILES, RIGHT)
    assert plan.remove == [SCRIPT.path, SERVICE.path]
    assert (plan.before, plan.after) == ([], [])
    assert not units.bare_absence(FILES, NOTHING).changed


@pytest.mark.parametrize("runs", [False, True])
def test_systemd_is_asked_only_where_it_runs(monkeypatch: pytest.MonkeyPatch, runs: bool, tmp_path: Path) -> None:
    asked: list[str] = []
    monkeypatch.setattr(units, "systemd_runs", lambda: runs)
    monkeypatch.setattr(units, "read_statuses", lambda found: asked.extend(unit.name for unit in found) or [UP])
    units.make_plan([File(str(tmp_path / "none"))], [UNIT], "absent")
    assert asked == ([UNIT.name] if runs else [])


def test_a_second_removal_changes_nothing() -> None:
    assert not units.absence(FILES, [UNIT], NOTHING, [Status()]).changed


def test_a_unit_that_lost_its_file_is_stopped_all_the_same() -> None:
    plan = units.absence(FILES, [UNIT], NOTHING, [Status(active=True)])
    assert (plan.before, plan.remove, plan.after) == ([["stop", UNIT.name]], [], [])


def test_units_are_read_in_the_order_asked_for() -> None:
    shown = (
        "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nNeedDaemonReload=no\n\n"
        "LoadState=not-found\nActiveState=inactive\nUnitFileState=\nNeedDaemonReload=no\n\n"
        "LoadState=loaded\nActiveState=failed\nUnitFileState=disabled\nNeedDaemonReload=yes\n"
    )
    stale = Status(known=True, stale=True)
    assert units.parse_statuses(shown) == [UP, Status(), stale]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"path": "natlb.conf"}, "files[0].path: natlb.conf is not an absolute path (begin it with a slash)"),
        ({"mode": "rwx"}, "files[0].mode: rwx is not a mode (write four octal digits such as 0644)"),
        ({"mode": "99"}, "files[0].mode: 99 is not a mode (write four octal digits such as 0644)"),
        ({"mode": "10000"}, "files[0].mode: 10000 is not a mode (write four octal digits such as 0644)"),
    ],
)
def test_errors_name_the_place(item: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        units.parse_files([{"path": "/etc/natlb.conf", "content": "", "mode": "0644", **item}])
    assert str(error.value) == message


def test_a_folder_that_is_missing_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=f"{tmp_path}/no/file: there is no folder {tmp_path}/no"):
        units.make_plan([File(str(tmp_path / "no" / "file"), "text")], [], "present")


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """The files that were given away, with their new user and group; that is for root alone to do."""
    given: list[tuple[str, int, int]] = []
    monkeypatch.setattr(units.os, "chown", lambda *arguments: given.append(arguments))
    return given


def test_files_are_replaced_and_removed(tmp_path: Path, given: list[tuple[str, int, int]]) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("old")
    new.write_text("before")
    units.carry_out(Plan(write=[File(str(new), "text\n", 0o755)], remove=[str(old)]), os.rename)
    assert new.read_text() == "text\n"
    assert stat.S_IMODE(new.stat().st_mode) == 0o755
    assert given == [(str(new), 0, 0)]
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize(("there", "text"), [(b"text\r\n", "text\n"), (b"text\r", "text\n"), (b"\xff\n", "\ufffd\n")])
def test_a_file_of_other_bytes_is_written_anew(tmp_path: Path, there: bytes, text: str) -> None:
    """A carriage return is part of the last word of its line for `sh`."""
    path = tmp_path / "file"
    path.write_bytes(there)
    path.chmod(0o644)
    wanted = File(str(path), text)
    assert units.outdated([wanted], {wanted.path: units.read_file(wanted.path)}) == [wanted]


@pytest.mark.usefixtures("given")
def test_a_folder_is_synced_once_its_names_are_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without that a power cut may bring the old names back."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("old")
    synced: list[list[str]] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            synced.append(sorted(os.listdir(descriptor)))
        fsync(descriptor)

    monkeypatch.setattr(units.os, "fsync", noted)
    units.carry_out(Plan(write=[File(str(new), "text\n")], remove=[str(old)]), os.rename)
    assert synced == [["new"]]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(units.os, "fsync", full)
    with pytest.raises(HostError, match="file: cannot be written: No space left on device"):
        units.carry_out(Plan(write=[File(str(path), "new")]), os.rename)
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("given")
def test_commands_come_before_and_after_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    seen: list[tuple[list[str], bool]] = []
    monkeypatch.setattr(units.processes, "require", lambda program, _package: program)
    monkeypatch.setattr(units.processes, "run", lambda argv: seen.append((argv, path.exists())))
    units.carry_out(Plan([["stop", "a"]], [File(str(path), "text")], [], [["start", "a"]]), os.rename)
    assert seen == [(["systemctl", "--quiet", "stop", "a"], False), (["systemctl", "--quiet", "start", "a"], True)]


#: What systemctl show says of a unit, what its last start wrote, what is told of it by systemd, and the message.
JOURNALS = {
    "its own words": (
        "ActiveState=failed\nInvocationID=5a",
        "first\n\n  last   words\n",
        "unit failed\n",
        "; a.service: first / last words",
    ),
    "it could not begin": (
        "ActiveState=failed\nInvocationID=",
        "",
        "Permission denied\n",
        "; a.service: Permission denied",
    ),
    "no journal": ("ActiveState=failed\nInvocationID=5a", "", "", "; a.service: nothing in its journal"),
    "not this one": ("ActiveState=active\nInvocationID=5a", "hello\n", "", ""),
    "no systemd": ("", "", "", "; a.service: nothing in its journal"),
}


@pytest.mark.parametrize(("shown", "own", "systemd", "told"), JOURNALS.values(), ids=JOURNALS)
def test_a_unit_that_fails_is_quoted(
    shown: str, own: str, systemd: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(argv: list[str]) -> str:
        if argv[:2] == ["systemctl", "--quiet"]:
            raise HostError("systemctl: ended with status 1")
        if argv[:2] == ["systemctl", "show"]:
            return shown
        if "--unit=a.service" in argv:
            return systemd
        return own if "_SYSTEMD_INVOCATION_ID=5a" in argv else ""

    monkeypatch.setattr(units.processes, "require", lambda program, _package: program)
    monkeypatch.setattr(units.processes, "run", run)
    with pytest.raises(HostError) as caught:
        units.carry_out(Plan(after=[["restart", "a.service"]]), os.rename)
    assert str(caught.value) == f"systemctl: ended with status 1; systemctl restart a.service{told}"


def test_a_journal_that_cannot_be_read_hides_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: list[str]) -> str:
        raise HostError(f"{argv[0]}: ended with status 1")

    monkeypatch.setattr(units.processes, "require", lambda program, _package: program)
    monkeypatch.setattr(units.processes, "run", run)
    with pytest.raises(
        HostError, match=r"^systemctl: ended with status 1; systemctl start a; a: nothing in its journal$"
    ):
        units.carry_out(Plan(after=[["start", "a"]]), os.rename)


@pytest.mark.parametrize("path", sorted(CHECKOUT.glob("roles/*/templates/*.service.j2")), ids=lambda path: path.name)
def test_units_execute_programs_of_the_system_only(path: Path) -> None:
    """What we have written ourselves is read by the shell: it may lie where nothing can be executed."""
    commands = re.findall(r"^Exec\w+=(.*)$", path.read_text(), re.MULTILINE)
    assert commands
    for command in commands:
        executed = [command, *re.findall(r"(?:exec|&&|\|\||[;&|(]) *(/\S+)", command)]
        assert all(words.startswith(("/bin/", "/usr/bin/")) for words in executed), command
