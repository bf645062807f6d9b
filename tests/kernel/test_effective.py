# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Overrides and health that are written beside the declaration: in the rules, at boot, in the diff, in what is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kernel_lab import drive
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.topology import NAMES, VIP, VIP6, WEB
from test_boot import reboot
from test_rollback import undone
from test_unchanged import LISTING, doubt, run

SINCE = "2026-11-26T01:00:00Z"
CHECKED = service("checked", listen=f"{VIP}:8080", health={"type": "tcp"})
SERVICES = [service(), CHECKED]
OTHERS, TEN = (dict.fromkeys(("web1", "web3", "web4"), each) for each in (2, 10))


def entry(name: str = "web2", of: str | None = "web", **keys: Any) -> Mapping:
    return {"service": of, "address": WEB[name], "port": None, "since": SINCE, **keys}


def write(path: Path, key: str, *entries: Mapping, **keys: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"format": 1, key: entries, **keys}))
    path.chmod(0o600)


def folder(balancer: Balancer) -> Path:
    return balancer.etc.parent / "run"


def override(balancer: Balancer, *entries: Mapping, **keys: Any) -> Path:
    path = balancer.etc / "overrides.json"
    write(path, "overrides", *entries, **keys)
    return path


def health(balancer: Balancer, *entries: Mapping, **keys: Any) -> Path:
    path = folder(balancer) / "health.json"
    write(path, "health", *entries, **keys)
    return path


def down(name: str = "web2", **keys: Any) -> Mapping:
    return entry(name, "checked", state="down", reason="connect: refused", **keys)


def drained(name: str = "web2", of: str | None = "web") -> Mapping:
    return entry(name, of, state="drained", reason="kernel update")


def told(balancer: Balancer, name: str, backend: str = "web2") -> Mapping:
    (found,) = balancer.info(name)["services"]
    return next(item for item in found["backends"] if item["name"] == backend)


def test_an_override_takes_a_backend_out_now_and_at_boot(balancer: Balancer) -> None:
    balancer.apply(SERVICES)
    override(balancer, drained())
    assert balancer.info()["drift"]
    checked = balancer.apply(SERVICES, check=True)
    outcome = balancer.apply(SERVICES)
    line = f"web: web2 state active -> drained, share 25 % -> 0 % (override since {SINCE}: kernel update)"
    assert outcome.diff.splitlines()[0] == line
    assert checked.diff == outcome.diff
    assert outcome.transaction == "delta"
    assert balancer.tally(count=6) == OTHERS
    assert balancer.tally(f"{VIP}:8080", count=4) == dict.fromkeys(NAMES, 1)
    assert json.loads((balancer.etc / "state.json").read_text())["services"][0]["backends"][1]["state"] == "active"
    assert not balancer.info()["drift"]
    reboot(balancer, "boot")
    assert balancer.tally(count=6) == OTHERS
    again = balancer.apply(SERVICES)
    assert (again.changed, again.transaction, again.diff) == (False, "none", "")


def test_it_is_told_side_by_side(balancer: Balancer) -> None:
    override(balancer, drained(), entry("web3", state=None, weight=3))
    health(balancer, down(), entry("web1", "checked", state="up"))
    balancer.apply(SERVICES)
    own, other = told(balancer, "web"), told(balancer, "checked")
    assert (own["state"], own["declared"], own["health"]) == ("drained", {"state": "active", "weight": 1}, "unchecked")
    assert own["override"] == {"state": "drained", "weight": None, "since": SINCE, "reason": "kernel update"}
    assert (own["because"], own["why"]) == ("override", f"override since {SINCE}: kernel update")
    assert own["expected_share"] == 0
    assert (told(balancer, "web", "web3")["weight"], told(balancer, "web", "web3")["expected_share"]) == (3, 0.6)
    assert (other["state"], other["override"], other["health"]) == ("active", None, "down")
    assert (other["health_since"], other["health_reason"]) == (SINCE, "connect: refused")
    assert (other["because"], other["expected_share"]) == ("health", 0)
    assert told(balancer, "checked", "web1")["health"] == "up"
    assert (told(balancer, "web", "web4")["because"], told(balancer, "web", "web4")["why"]) == ("declared", "")


@pytest.mark.parametrize("persist", [True, False])
def test_what_health_takes_out_stays_out(balancer: Balancer, persist: bool) -> None:
    """Until it is found up again: in the rules, over runs, and with the rules that boot."""
    balancer.apply(SERVICES, persist=persist)
    health(balancer, down())
    outcome = balancer.apply(SERVICES, persist=persist)
    line = f"checked: web2 state active -> disabled, share 25 % -> 0 % (down since {SINCE}: connect: refused)"
    assert outcome.diff.splitlines()[0] == line
    assert balancer.tally(f"{VIP}:8080", 6) == OTHERS
    assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)
    assert not balancer.apply(SERVICES, persist=persist).changed
    if persist:
        reboot(balancer, "boot")
        for path in folder(balancer).glob("*"):
            path.unlink()
        assert balancer.tally(f"{VIP}:8080", 6) == OTHERS
        assert not balancer.apply(SERVICES).changed, "nobody has checked since"
        assert told(balancer, "checked")["health"] == "down"
    health(balancer, down() | {"state": "up"})
    back = balancer.apply(SERVICES, persist=persist)
    assert back.diff.splitlines()[0] == "checked: web2 state disabled -> active, share 0 % -> 25 % (up again)"
    assert balancer.tally(f"{VIP}:8080", 4) == dict.fromkeys(NAMES, 1)
    assert not list(balancer.etc.parent.rglob("effective.json"))


def test_health_of_all_answers_as_declared(balancer: Balancer) -> None:
    balancer.apply(SERVICES)
    health(balancer, *map(down, NAMES))
    warnings = balancer.apply(SERVICES).warnings
    assert [line for line in warnings if "service checked: no backend can serve; clients get a reject" in line]
    assert balancer.tally(f"{VIP}:8080", 2) == {"ConnectionRefusedError": 2}
    opened = [service(), {**CHECKED, "health": {"type": "tcp", "fail_open": True}}]
    warnings = balancer.apply(opened).warnings
    assert [line for line in warnings if "all of its backends are down, and fail_open keeps them" in line]
    assert balancer.tally(f"{VIP}:8080", 4) == dict.fromkeys(NAMES, 1)
    assert told(balancer, "checked")["because"] == "fail_open"


def test_a_family_that_nobody_serves_is_named(balancer: Balancer) -> None:
    """The other one is served as before."""
    listen = [f"{VIP}:8080", f"[{VIP6}]:8080"]
    balancer.apply([{**CHECKED, "listen": listen, "backends": [*webs(), {"address": "2001:db8:2::3"}]}])
    health(balancer, *map(down, NAMES))
    (warning,) = (line for line in balancer.info()["warnings"] if "can serve" in line)
    assert warning == "service checked: no backend can serve over IPv4; clients get a reject"


@pytest.mark.parametrize("keys", [{"weight": 2}, {"state": "disabled"}], ids=str)
def test_another_declaration_undoes_an_override(balancer: Balancer, keys: Mapping) -> None:
    balancer.apply(SERVICES)
    path = override(balancer, drained())
    balancer.apply(SERVICES)
    kept = path.read_text()
    backends = [{**backend, **keys} if backend["name"] == "web2" else backend for backend in webs()]
    for options in ({"check": True}, {"rollback_after": 1}):
        outcome = balancer.apply([service(backends=backends), CHECKED], **options)
        assert any("the override for 10.0.0.4 of web is undone" in line for line in outcome.warnings)
        assert path.read_text() == kept
    undone(balancer)
    assert balancer.tally(count=6) == OTHERS, "what went back is the effective state"
    outcome = balancer.apply([service(backends=backends), CHECKED])
    assert "overrides.json" in outcome.diff
    assert not path.exists()
    assert balancer.tally(count=10) == (
        {**OTHERS, "web2": 4} if "weight" in keys else {"web1": 4, "web3": 3, "web4": 3}
    )
    assert not balancer.apply([service(backends=backends), CHECKED]).changed


def test_an_override_of_every_service_is_undone_where_it_is_declared_anew(balancer: Balancer) -> None:
    balancer.apply(SERVICES)
    override(balancer, drained(of=None))
    balancer.apply(SERVICES)
    assert balancer.tally(f"{VIP}:8080", 6) == OTHERS
    again = [service(backends=[{**item, "weight": 1 + (item["name"] == "web2")} for item in webs()]), CHECKED]
    balancer.apply(again)
    assert (balancer.tally(count=5), balancer.tally(f"{VIP}:8080", 6)) == (
        {**dict.fromkeys(NAMES, 1), "web2": 2},
        OTHERS,
    )
    assert not balancer.apply(again).changed


def test_a_backend_that_is_removed_takes_both_along(balancer: Balancer) -> None:
    balancer.apply(SERVICES)
    paths = override(balancer, drained(of=None)), health(balancer, down(), down("web1"))
    balancer.apply(SERVICES)
    some = webs("web1", "web3", "web4")
    balancer.apply([service(backends=some), {**CHECKED, "backends": some}])
    assert not paths[0].exists()
    assert [item["address"] for item in json.loads(paths[1].read_text())["health"]] == [WEB["web1"]]
    balancer.apply(SERVICES)
    assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)
    assert balancer.tally(f"{VIP}:8080", 6) == dict.fromkeys(NAMES[1:], 2)


DAMAGE = {
    "nothing": "",
    "no JSON": "{",
    "a list": "[]",
    "bytes": "\xff\xfe",
    "no format": '{"KEY": []}',
    "of another host": '{"format": 1, "host": "ffff", "KEY": [ENTRY]}',
}


@pytest.mark.parametrize("text", DAMAGE.values(), ids=DAMAGE)
def test_damaged_overrides_are_said_and_set_aside(balancer: Balancer, text: str) -> None:
    balancer.apply(SERVICES)
    path = override(balancer)
    text = text.replace("KEY", "overrides").replace("ENTRY", json.dumps(drained()))
    path.write_bytes(text.encode("latin-1"))
    for outcome in (balancer.apply(SERVICES, check=True), balancer.apply(SERVICES)):
        assert outcome.changed
        assert [line for line in outcome.warnings if str(path) in line]
    assert not path.exists()
    assert (balancer.etc / "overrides.json.damaged").read_text() == text.replace("\xff\xfe", "\\xff\\xfe")
    assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)
    again = balancer.apply(SERVICES)
    assert (again.changed, [line for line in again.warnings if "overrides" in line]) == (False, [])
    balancer.remove()
    assert not list(balancer.etc.parent.rglob("*.damaged"))


def test_what_can_be_read_holds(balancer: Balancer) -> None:
    """Of a file of the future and of one that is damaged in a part: nobody is put back into rotation by an accident."""
    balancer.apply(SERVICES)
    path = override(balancer, drained(), {"service": {"of": "the future"}}, format=7)
    warnings = balancer.apply(SERVICES).warnings
    assert any("a later version of natlb wrote it (format 7, this one reads 1)" in line for line in warnings)
    assert balancer.tally(count=6) == OTHERS
    assert json.loads(path.read_text())["format"] == 1
    assert not balancer.apply(SERVICES).changed


@pytest.mark.parametrize("text", DAMAGE.values(), ids=DAMAGE)
def test_damaged_health_puts_nobody_back(balancer: Balancer, text: str) -> None:
    balancer.apply(SERVICES)
    path = health(balancer, down())
    balancer.apply(SERVICES)
    path.write_bytes(text.replace("KEY", "health").replace("ENTRY", json.dumps(down("web1"))).encode("latin-1"))
    outcome = balancer.apply(SERVICES)
    assert [line for line in outcome.warnings if str(path) in line]
    assert balancer.tally(f"{VIP}:8080", 6) == OTHERS
    assert json.loads(path.read_text())["health"][0]["state"] == "down"
    assert not balancer.apply(SERVICES).changed
    assert not [line for line in balancer.info()["warnings"] if "health.json" in line]


def test_a_state_of_the_future(balancer: Balancer) -> None:
    balancer.apply(SERVICES)
    path = balancer.etc / "state.json"
    good = path.read_text()
    path.write_text(good.replace('"format": 3', '"format": 9'))
    assert any("format 9, this one reads 3" in line for line in balancer.info()["warnings"])
    outcome = balancer.apply(SERVICES)
    assert any("format 9, this one reads 3" in line for line in outcome.warnings)
    assert (outcome.transaction, path.read_text()) == ("none", good)


@pytest.mark.parametrize("which", [override, health], ids=["override", "health"])
def test_a_run_that_need_not_look_sees_it(balancer: Balancer, which: Any) -> None:
    """Both files are among what a plan has read: one that comes, changes or goes is noticed."""
    said = (drained, down)[which is health]
    balancer.apply(SERVICES)
    run(balancer, SERVICES)
    path = which(balancer, said())
    assert run(balancer, SERVICES)[0].changed
    if balancer.variant != "legacy":
        assert doubt(balancer) == ""
    outcome, programs = run(balancer, SERVICES)
    assert not outcome.changed
    if balancer.variant != "legacy":
        assert not programs & LISTING
    # What the agent does not say is as it was known last.
    back = [entry("web2", "checked", state="up")] if which is health else []
    which(balancer, said("web3"), *back)
    assert run(balancer, SERVICES)[0].changed
    target = f"{VIP}:{8080 if which is health else 80}"
    assert balancer.tally(target, 6) == dict.fromkeys(("web1", "web2", "web4"), 2)
    path.unlink()
    if which is health:
        assert not run(balancer, SERVICES)[0].changed, "what was known last holds until somebody has checked"
    else:
        assert run(balancer, SERVICES)[0].changed
        assert balancer.tally(target, 4) == dict.fromkeys(NAMES, 1)


def test_overrides_go_where_the_rest_is_kept(balancer: Balancer) -> None:
    balancer.apply(SERVICES)
    path = override(balancer, drained())
    for persist, there in ((False, folder(balancer)), (True, balancer.etc)):
        balancer.apply(SERVICES, persist=persist)
        assert [item.parent for item in sorted(balancer.etc.parent.rglob("overrides.json"))] == [there]
        assert balancer.tally(count=6) == OTHERS
        assert not balancer.apply(SERVICES, persist=persist).changed
    assert path.exists()


def test_hash_clients_of_others_stay(balancer: Balancer) -> None:
    sources = [f"198.18.0.{i}" for i in range(1, 41)]
    services = [{**CHECKED, "method": "source_hash"}]
    balancer.apply(services)
    before = [answer.name for answer in balancer.ask(f"{VIP}:8080", 40, sources=sources)]
    health(balancer, down())
    balancer.apply(services)
    after = [answer.name for answer in balancer.ask(f"{VIP}:8080", 40, sources=sources)]
    assert "web2" in before
    assert "web2" not in after
    assert [a for a, b in zip(after, before, strict=True) if b != "web2"] == [b for b in before if b != "web2"]
    health(balancer, entry("web2", "checked", state="up"))
    balancer.apply(services)
    assert [answer.name for answer in balancer.ask(f"{VIP}:8080", 40, sources=sources)] == before


def test_udp_clients_leave_a_dead_backend(balancer: Balancer) -> None:
    """A drained one they keep, as with a declared drain."""
    services = [{**CHECKED, "protocol": "udp"}]
    balancer.apply(services)
    held = balancer.hold(f"{VIP}:8080", 4, protocol="udp")
    health(balancer, down())
    override(balancer, drained("web3", "checked"))
    balancer.apply(services)
    for handle, answer in held:
        now = balancer.talk(handle).name
        assert now != "web2" if answer.name == "web2" else now == answer.name


def test_confirmed_and_not(balancer: Balancer) -> None:
    """What is written waits for the confirmation with the rest; health that comes meanwhile is not overwritten."""
    balancer.apply(SERVICES)
    override(balancer, drained())
    outcome = balancer.apply(SERVICES, rollback_after=30)
    assert not (balancer.etc / "current" / "effective.json").exists()
    path = health(balancer, down())
    kept = path.read_text()
    balancer.host.call(drive.confirm, str(balancer.etc.parent), outcome.token)
    assert "drained" in (balancer.etc / "current" / "effective.json").read_text()
    assert path.read_text() == kept
    balancer.apply(SERVICES)
    assert balancer.tally(f"{VIP}:8080", 6) == OTHERS
