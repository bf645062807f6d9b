# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The units of systemd that a run leaves: their texts, what systemd is told and when, and what undoes it."""

from __future__ import annotations

import configparser
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from _natlb.errors import HostError
from _natlb.host import staging, units
from _natlb.host.store import Paths
from _natlb.host.units import Status
from _natlb.plan import boot, running, unit_files
from _natlb.plan.unit_files import NAMES
from _natlb.ruleset.sections import unified
from boot_lab import UPLINKS, Host

CHECKOUT = Path(__file__).resolve().parents[3]
ETC = Path("/etc/natlb")
#: It speaks to backends, and puts forwarding back.
NOT_THE_AGENT = ("IPAddressDeny", "ProtectKernelTunables")
#: Who runs beside the rules: nobody, the agent, or the agent with checks that are programs.
BESIDE = {
    "alone": None,
    "agent": unit_files.AgentUnit("/usr/bin/python3", False),
    "programs": unit_files.AgentUnit("/usr/bin/python3", True),
}
#: Each unit, by that and by whether what boots may be iptables.
ALL = {
    f"{unit.name} {'iptables' if modules else 'nft'} {beside}": unit
    for modules in (False, True)
    for beside, agent in BESIDE.items()
    for unit in unit_files.units(ETC, True, agent, modules)
}


def parsed(text: str) -> dict[str, list[str]]:
    """The directives of a unit, each with all of its values."""
    found: dict[str, list[str]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


# -- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_units_execute_programs_of_the_system_only(name: str) -> None:
    """What we have written ourselves is read by the shell: it may lie where nothing can be executed."""
    executed(ALL[name].text)


def test_the_units_of_backends_execute_programs_of_the_system_only() -> None:
    for name in ("natlb-return-path", "natlb-return-path-restore"):
        executed((CHECKOUT / f"roles/return_path/templates/{name}.service.j2").read_text())


def test_no_unit_of_backends_is_part_of_a_firewall() -> None:
    """firewalld conflicts with the others: what is part of both would have to stop and to restart at once."""
    kept, again = (
        parsed((CHECKOUT / f"roles/return_path/templates/natlb-return-path{name}.service.j2").read_text())
        for name in ("", "-restore")
    )
    firewalls = set(again["WantedBy"][0].split())
    assert firewalls == {"nftables.service", "firewalld.service", "iptables.service", "ip6tables.service"}
    assert not firewalls & set(" ".join(kept["PartOf"]).split())
    assert "PartOf" not in again
    assert "RemainAfterExit" not in again
    assert firewalls == set(kept["ReloadPropagatedFrom"][0].split())
    for unit in (kept, again):
        assert firewalls <= set(" ".join(unit["After"]).split())


def executed(text: str) -> None:
    commands = re.findall(r"^Exec\w+=(.*)$", text, re.MULTILINE)
    assert commands
    for command in commands:
        programs = [command, *re.findall(r"(?:exec|&&|\|\||[;&|(]) *(/\S+)", command)]
        assert all(words.startswith(("/bin/", "/usr/bin/")) for words in programs), command


@pytest.mark.parametrize("name", ALL)
def test_units_may_do_what_they_need_and_no_more(name: str) -> None:
    unit, directives = ALL[name], parsed(ALL[name].text)
    may = {"CAP_NET_ADMIN"}
    if unit.name != unit_files.UPLINKS:
        may |= {"CAP_NET_RAW", *(["CAP_SYS_MODULE"] if unit.loads_modules else [])}
    if unit.name == unit_files.AGENT and "programs" in name:
        # Checks that are programs run as another user.
        may |= {"CAP_SETUID", "CAP_SETGID", "CAP_KILL"}
    (capabilities,) = directives["CapabilityBoundingSet"]
    assert set(capabilities.split()) == may
    assert ("ProtectKernelModules" in directives) == ("CAP_SYS_MODULE" not in may)
    assert ("@module" in directives["SystemCallFilter"]) == ("CAP_SYS_MODULE" in may)
    writes = {unit_files.UPLINKS: [], unit_files.AGENT: ["/run", "/etc/natlb"]}
    assert directives.get("ReadWritePaths", []) == writes.get(unit.name, ["/run"])
    assert directives["SystemCallFilter"][:2] == ["@system-service", "~@privileged @resources"]
    denied = parsed((CHECKOUT / "roles/return_path/templates/natlb-return-path.sandbox.j2").read_text())
    for strict in denied.keys() - {"CapabilityBoundingSet", "SystemCallFilter", "ReadWritePaths"}:
        if strict.startswith(("Protect", "Restrict", "Private", "NoNew", "Lock", "Memory", "IPAddress", "Keyring")):
            left_out = strict == "ProtectKernelModules" or (unit.name == unit_files.AGENT and strict in NOT_THE_AGENT)
            assert left_out or directives[strict] == denied[strict], strict
    assert ("ProtectKernelTunables" in directives) == (unit.name != unit_files.AGENT)
    assert directives["UMask"] == ["0077"]


@pytest.mark.parametrize("name", ALL)
def test_the_links_are_those_that_the_unit_asks_for(name: str) -> None:
    """`systemctl disable` and `enable` do what a run does."""
    asked = " ".join(parsed(ALL[name].text)["WantedBy"]).split()
    assert asked == list(ALL[name].wanted_by)


@pytest.mark.parametrize("name", ALL)
def test_units_are_files_that_systemd_can_read(name: str) -> None:
    reader = configparser.RawConfigParser(strict=False)
    reader.optionxform = str  # type: ignore[assignment,method-assign]
    reader.read_string(ALL[name].text.replace("\\\n", " "))
    assert reader.sections() == ["Unit", "Service", "Install"]
    files = ("/etc/natlb/boot", "/etc/natlb/boot-uplinks", "/etc/natlb/current/natlb")
    assert reader["Unit"]["ConditionPathExists"] in files
    assert "{" not in ALL[name].text


@pytest.mark.parametrize("name", [name for name, unit in ALL.items() if unit.name == unit_files.AGENT])
def test_the_agent_is_started_again_however_often_it_dies(name: str) -> None:
    """systemd gives a unit up after five starts in ten seconds, unless it is told not to."""
    unit, service = ALL[name].text.split("[Service]")
    assert parsed(unit)["StartLimitIntervalSec"] == ["0"]
    assert (parsed(service)["Restart"], parsed(service)["RestartSec"]) == (["always"], ["1s"])


def test_the_agent_leaves_units_to_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its sandbox could not write one that somebody has changed, and the rules would never come back."""
    asked: list[Paths] = []

    def restored(paths: Paths, _variant: str | None) -> tuple[None, list[str]]:
        asked.append(paths)
        return None, []

    monkeypatch.setattr(running.requests, "restored", restored)
    monkeypatch.setattr(running.apply, "carry_out", lambda *_arguments: (None, None))
    running.restore(Paths(tmp_path / "etc", tmp_path / "run", Path("/")))
    assert asked == [Paths(tmp_path / "etc", tmp_path / "run", None)]


def test_settings_of_interfaces_may_be_missing() -> None:
    text = unit_files.sysctl_text({"net/ipv4/ip_forward": "1", "net/ipv4/conf/eth0.100/src_valid_mark": "1"})
    assert text.splitlines()[1:] == ["-net/ipv4/conf/eth0.100/src_valid_mark = 1", "net/ipv4/ip_forward = 1"]


# -- what systemd is told --------------------------------------------------------------------------------------------


def test_a_new_host_gets_the_files_before_systemd_is_told_of_them(host: Host) -> None:
    part, staged = host.plan("web", egress=UPLINKS)
    assert "unit natlb.service\n@@ -1 +1 @@\n-inactive\n+active" in unified(part.live, part.wanted)
    host.put(staged)
    assert host.systemd.told == [
        "daemon-reload",
        "start natlb.service",
        "restart natlb-firewalld.service natlb-uplinks.service",
    ]
    enabled = [path.parent.name for path in host.unit("").glob("*.wants/natlb*")]
    assert sorted(enabled) == [
        "firewalld.service.wants",
        "firewalld.service.wants",
        "multi-user.target.wants",
        "multi-user.target.wants",
        "nftables.service.wants",
    ]
    host.systemd.told.clear()
    assert not host.run("web", egress=UPLINKS)
    assert host.systemd.told == []


def drift_link(host: Host) -> None:
    host.unit("multi-user.target.wants/natlb.service").unlink()


def drift_text(host: Host) -> None:
    host.unit("natlb.service").write_text("not ours\n")


def drift_mode(host: Host) -> None:
    host.unit("natlb-firewalld.service").chmod(0o600)


def drift_missing(host: Host) -> None:
    host.unit("natlb-uplinks.service").unlink()


def drift_mask(host: Host) -> None:
    host.unit("natlb-restore.service").unlink()
    host.unit("natlb-restore.service").symlink_to("/dev/null")


def drift_stopped(host: Host) -> None:
    host.systemd.active.discard("natlb.service")


def drift_stale(host: Host) -> None:
    host.systemd.stale.add("natlb-restore.service")


def drift_sysctl(host: Host) -> None:
    (host.root / "etc/sysctl.d/zz-natlb.conf").unlink()


DRIFTS: dict[str, tuple[Any, list[str]]] = {
    "disabled": (drift_link, ["daemon-reload"]),
    "another text": (drift_text, ["daemon-reload"]),
    "another mode": (drift_mode, ["daemon-reload", "restart natlb-firewalld.service"]),
    "a unit is missing": (drift_missing, ["daemon-reload", "restart natlb-uplinks.service"]),
    "masked": (drift_mask, ["daemon-reload"]),
    "stopped": (drift_stopped, ["start natlb.service"]),
    "read before it was written": (drift_stale, ["daemon-reload"]),
    "settings": (drift_sysctl, []),
}


@pytest.mark.parametrize(("drift", "told"), DRIFTS.values(), ids=DRIFTS)
def test_drift_is_shown_and_repaired(host: Host, drift: Any, told: list[str]) -> None:
    host.run("web", egress=UPLINKS)
    good = host.files()
    host.systemd.told.clear()
    drift(host)
    part, _staged = host.plan("web", egress=UPLINKS)
    assert part.differs
    assert unified(part.live, part.wanted)
    assert host.run("web", egress=UPLINKS)
    assert host.systemd.told == told
    host.systemd.stale.clear()
    assert host.files() == good
    assert not host.run("web", egress=UPLINKS)


def test_other_uplinks_restart_what_keeps_them(host: Host) -> None:
    """The shell of the follower has the old script open."""
    host.run("web", egress=UPLINKS)
    host.systemd.told.clear()
    other = [{"source": "10.0.0.0/24", "uplinks": [{"interface": "eth2", "gateway": "203.0.113.1"}]}]
    host.run("web", egress=other)
    assert host.systemd.told == ["restart natlb-uplinks.service"]


def test_without_uplinks_nothing_keeps_them(host: Host) -> None:
    host.run("web", egress=UPLINKS)
    host.systemd.told.clear()
    host.run("web")
    assert host.systemd.told == ["stop natlb-uplinks.service", "daemon-reload"]
    assert not host.unit("natlb-uplinks.service").exists()


def test_a_unit_that_lost_its_file_is_stopped_all_the_same(host: Host) -> None:
    host.systemd.active.add("natlb-uplinks.service")
    part, _staged = host.plan()
    assert part.differs
    host.run()
    assert host.systemd.told == ["stop natlb-uplinks.service"]


def test_one_of_our_units_may_be_wanted_by_more(host: Host) -> None:
    host.run("web")
    more = host.unit("graphical.target.wants/natlb.service")
    more.parent.mkdir()
    more.symlink_to("/etc/systemd/system/natlb.service")
    assert not host.run("web")
    host.run()
    assert not more.parent.exists()


def test_a_reload_that_a_killed_run_owes_is_made_up_for(host: Host) -> None:
    host.run("web")
    (host.paths.run / "daemon-reload").touch()
    host.systemd.told.clear()
    assert host.run("web")
    assert host.systemd.told == ["daemon-reload"]
    assert not host.run("web")


@pytest.mark.parametrize("forwarding", [True, False])
def test_settings_of_a_host_that_forwards_by_itself_stay(host: Host, forwarding: bool) -> None:
    host.run("web")
    host.run("web", forwarding=forwarding, settings={"net/netfilter/nf_conntrack_max": "4096"})
    kept = (host.root / "etc/sysctl.d/zz-natlb.conf").resolve(), (host.paths.etc / "current/sysctl.conf")
    assert ("ip_forward" in kept[1].read_text()) == (not forwarding)


@pytest.mark.parametrize("forwarding", [True, False])
def test_the_module_of_a_helper_is_loaded_at_boot(host: Host, forwarding: bool) -> None:
    modules = host.root / "etc/modules-load.d/natlb.conf"
    host.run("web", forwarding=forwarding)
    assert modules.exists() == forwarding
    assert host.run("web", forwarding=forwarding, helper="ftp")
    assert modules.read_text().splitlines()[-1] == "nf_nat_ftp"
    assert ("nf_conntrack" in modules.read_text().splitlines()) == forwarding
    assert not host.run("web", forwarding=forwarding, helper="ftp")
    assert host.run("web", forwarding=forwarding)
    assert modules.exists() == forwarding
    assert not host.run("web", forwarding=forwarding)


def test_without_persist_there_is_no_unit(host: Host) -> None:
    host.run("web", persist=False)
    assert list(host.unit("").iterdir()) == []
    host.run("web")
    assert host.run("web", persist=False)
    assert list(host.unit("").iterdir()) == []
    assert host.systemd.active == set()


def test_without_systemd_its_folders_are_left_alone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "systemd_runs", lambda: False)
    host.run("web")
    (warning,) = boot.warnings(host.request("web"), boot.read(host.paths))
    assert f"(have `sh {host.paths.etc}/boot` run at boot, or set persist: false)" in warning
    assert "rules of web" in str(host.boots())
    assert list(host.unit("").iterdir()) == []
    host.unit("natlb.service").write_text("of an image\n")
    assert not host.run("web")
    host.run()
    assert list(host.unit("").iterdir()) == [], "a removal takes what is there"
    assert host.systemd.told == []


def test_folders_of_the_system_may_be_none_of_its_business(host: Host) -> None:
    paths = type(host.paths)(host.paths.etc, host.paths.run)
    host.unit("natlb.service").write_text("not ours to see\n")
    assert boot.read(paths).entries == {}


# -- what fails ------------------------------------------------------------------------------------------------------

FAILURES = ("daemon-reload", "start natlb.service", "restart natlb-firewalld.service natlb-uplinks.service")


@pytest.mark.parametrize("fails", FAILURES)
def test_a_unit_that_fails_leaves_the_host_as_it_was(host: Host, fails: str) -> None:
    before = host.files()
    _part, staged = host.plan("web", egress=UPLINKS)
    host.systemd.fails = fails
    with pytest.raises(HostError, match="Job for it failed") as caught:
        host.put(staged)
    if fails.startswith("start"):
        assert str(caught.value).endswith(f"; systemctl {fails}; natlb.service: first words / last words")
    assert host.files() == before
    assert host.systemd.active == set()
    assert "daemon-reload" in host.systemd.told[1:]
    host.systemd.fails = ""
    host.run("web", egress=UPLINKS)
    assert not host.run("web", egress=UPLINKS)


def test_a_change_that_fails_leaves_units_as_they_were(host: Host) -> None:
    host.run("web", egress=UPLINKS)
    before, active = host.files(), set(host.systemd.active)
    _part, staged = host.plan("web", engine="iptables")
    host.systemd.fails = "stop natlb-uplinks.service"
    with pytest.raises(HostError):
        host.put(staged)
    host.systemd.fails = ""
    assert (host.files(), host.systemd.active) == (before, active)
    assert "natlb.service" not in " ".join(host.systemd.told[4:]).replace("natlb-", ""), "it would load rules"


def test_units_are_read_in_the_order_asked_for() -> None:
    shown = (
        "ActiveState=active\nNeedDaemonReload=no\n\n"
        "ActiveState=inactive\nNeedDaemonReload=no\n\n"
        "ActiveState=failed\nNeedDaemonReload=yes\n"
    )
    assert units.parse(shown) == [Status(active=True), Status(), Status(stale=True)]


def test_a_systemd_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units.processes, "require", lambda program, _package: program)
    monkeypatch.setattr(units.processes, "run", lambda _argv: "")
    with pytest.raises(HostError, match=rf"asked for {len(NAMES)} units, told of 0 \(is systemd running\?\)"):
        units.statuses(NAMES)


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
        units.start(units.Orders(restart=("a.service",)))
    assert str(caught.value) == f"systemctl: ended with status 1; systemctl restart a.service{told}"


def test_a_journal_that_cannot_be_read_hides_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: list[str]) -> str:
        raise HostError(f"{argv[0]}: ended with status 1")

    monkeypatch.setattr(units.processes, "require", lambda program, _package: program)
    monkeypatch.setattr(units.processes, "run", run)
    with pytest.raises(
        HostError, match=r"^systemctl: ended with status 1; systemctl start a; a: nothing in its journal$"
    ):
        units.start(units.Orders(start=("a",)))


def test_only_what_is_not_this_process_s_own_has_an_owner(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file that was given away; only root could do that here."""
    host.run("web")
    mine = staging.owner(host.unit("natlb.service"))
    assert mine is None
    monkeypatch.setattr(staging.os, "geteuid", lambda: 54321)
    part, _staged = host.plan("web")
    assert "owner" in unified(part.live, part.wanted)


# -- the command -----------------------------------------------------------------------------------------------------


def echoing() -> str:
    return "import sys\nprint(sys.argv[1:], sys.flags.isolated)\n"


@pytest.mark.parametrize("systemd", [True, False], ids=["systemd", "without systemd"])
def test_the_program_is_in_the_path_of_root(host: Host, monkeypatch: pytest.MonkeyPatch, systemd: bool) -> None:
    monkeypatch.setattr(units, "systemd_runs", lambda: systemd)
    path = host.root / "usr/local/sbin/natlb"
    assert host.run("web", program=echoing)
    assert path.stat().st_mode & 0o7777 == 0o755
    said = subprocess.run([path, "drain", "web 2"], capture_output=True, text=True, check=True).stdout
    assert said == "['drain', 'web 2'] 1\n"
    assert not host.run("web", program=echoing)
    assert not host.run("web"), "who only looks brings no program"
    assert not [name for name in host.systemd.told if "agent" in name], "nothing is checked"
    path.chmod(0o644)
    assert host.run("web", program=echoing)
    assert host.run("")
    assert host.files() == {}


@pytest.mark.parametrize("others", ["text", "link"])
def test_a_program_of_others_stays(host: Host, others: str) -> None:
    path = host.root / "usr/local/sbin/natlb"
    if others == "text":
        path.write_text("#!/bin/sh\n# of somebody else\n")
    else:
        path.symlink_to("/opt/natlb/bin/natlb")
    before = host.files()
    assert host.run("web", program=echoing)
    assert not host.run("web", program=echoing)
    assert host.run("")
    assert host.files() == before


def test_no_place_for_the_command_is_no_error(host: Host) -> None:
    (host.root / "usr/local/sbin").rmdir()
    assert host.run("web", program=echoing)
    assert not host.run("web", program=echoing)
    assert not (host.root / "usr/local/sbin").exists()


def test_only_root_may_use_it(host: Host) -> None:
    host.run("web", program=echoing)
    text = (host.root / "usr/local/sbin/natlb").read_text().replace("$(id -u)", "1000")
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "natlb: only root may do this (sudo natlb)\n")


def test_rules_come_back_however_often_firewalls_are_started(host: Host) -> None:
    """systemd starts a unit five times in ten seconds, and then no more."""
    host.run("web")
    assert "\nStartLimitIntervalSec=0\n" in host.unit(unit_files.RESTORE).read_text().partition("[Service]")[0]


def test_the_agent_takes_the_place_of_units_that_follow_firewalls(host: Host) -> None:
    """It comes: they go, in one plan. It goes: they are back."""
    followers = {unit_files.RESTORE, unit_files.FIREWALLD}
    health: Any = {"program": lambda: "a program", "health": {"type": "tcp"}}
    host.run("web")
    assert followers <= {path.name for path in host.unit("").iterdir()}
    host.systemd.active.add(unit_files.FIREWALLD)
    host.systemd.told.clear()
    part, _staged = host.plan("web", **health)
    shown = unified(part.live, part.wanted)
    assert all(str(host.unit(name)) in shown for name in followers)
    assert host.run("web", **health)
    assert not followers & {path.name for path in host.unit("").rglob("*")}
    assert host.systemd.told == ["stop natlb-firewalld.service", "daemon-reload", "restart natlb-agent.service"]
    assert "ReloadPropagatedFrom" not in host.unit(unit_files.MAIN).read_text()
    assert not host.run("web", **health)
    host.systemd.told.clear()
    assert host.run("web")
    assert followers <= {path.name for path in host.unit("").iterdir()}
    assert host.systemd.told == ["stop natlb-agent.service", "daemon-reload", "restart natlb-firewalld.service"]
    assert "ReloadPropagatedFrom" in host.unit(unit_files.MAIN).read_text()
    assert not host.run("web")
