# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults, injected into runs on a balancer of the kernel lab. Each drill returns a `Row` of figures.

Two declarations take turns, OLD and NEW. After a fault the kernel must hold the rules of one of the two, the files must
be whole, and the next run must bring everything to what is declared.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import drill_host
from fault_table import Row
from kernel_lab import drive, traffic
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.drive import Contents, contents
from kernel_lab.topology import OTHER_VIP, VIP, VIP6, WEB6

BOTH = [*webs("web1", "web2", port=8080), {"address": WEB6["web1"]}, {"address": WEB6["web2"], "weight": 3}]
OLD: list[Mapping] = [
    service(),
    service("dual", listen=[f"{VIP}:81", f"[{VIP6}]:81"], backends=BOTH),
    service("going", listen=f"{VIP}:82", method="source_hash", allow_from=["198.18.0.0/16"]),
]
NEW: list[Mapping] = [
    service(backends=webs("web2", "web3", "web4")),
    service("dual", listen=[f"{VIP}:81", f"[{VIP6}]:81"], backends=BOTH[1:3], method="random"),
    service("coming", listen=[f"{OTHER_VIP}:83", f"[{VIP6}]:83"], backends=BOTH, max_connections_per_client=9),
]
EGRESS: dict[str, list[Mapping]] = {"old": [{"source": "10.0.0.0/24", "out_interface": "front"}], "new": []}
DECLARED = {"old": OLD, "new": NEW}
#: Served by both, with the same port: connections to it must never fail.
STEADY = f"{VIP}:80"
ROLLBACK_S = 1
PROGRAMS = (
    "nft",
    *(
        f"{ip}{way}-{what}"
        for ip in ("iptables-", "ip6tables-")
        for way in ("nft", "legacy")
        for what in ("restore", "save")
    ),
)


class Field:
    """A balancer with what OLD and NEW look like on it."""

    def __init__(self, balancer: Balancer, rng: random.Random) -> None:
        self.balancer, self.rng = balancer, rng
        self.root = balancer.etc.parent
        self.rules: dict[str, Contents] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        for name in ("new", "old"):
            self.settle(name)
            self.rules[name] = self.live()
            self.files[name] = self.kept()

    @property
    def etc(self) -> Path:
        """The files that boot, as the balancer sees them: it has mounts of its own."""
        return Path(f"/proc/{self.balancer.host.pid}/root") / self.balancer.etc.relative_to("/")

    def settle(self, name: str) -> Any:
        return self.balancer.apply(DECLARED[name], EGRESS[name])

    def request(self, name: str, **more: Any) -> dict[str, Any]:
        options: dict[str, Any] = {"engine": self.balancer.engine, **more.pop("options", {})}
        if self.balancer.variant:
            options["iptables_variant"] = self.balancer.variant
        return {"services": DECLARED[name], "egress": EGRESS[name], "options": options, **more}

    def run(self, name: str, before: Sequence[str] = (), **more: Any) -> dict[str, Any]:
        return dict(self.balancer.host.call(drill_host.run, str(self.root), self.request(name, **more), before))

    def live(self) -> Contents:
        """Every table, also one that is empty: a rule that is missing must show."""
        return contents(self.balancer.snapshot())

    def kept(self) -> dict[str, bytes]:
        if not self.etc.exists():
            return {}
        # Programs that stand in for others are named in what boots.
        ours, real = f"{_programs(self.root)}/".encode(), b"/usr/sbin/"
        names = [path.name for path in self.etc.iterdir() if path.is_symlink() and path.name != "current"]
        found = {name: str((self.etc / name).readlink()).encode() for name in names}
        booted = sorted((self.etc / "current").iterdir()) if (self.etc / "current").exists() else []
        return {**found, **{f"current/{path.name}": path.read_bytes().replace(ours, real) for path in booted}}

    def holds(self) -> str:
        """`old`, `new`, `part` (iptables: each table is old or new), `ahead` (nftables: old, and some of new to which
        no rule leads yet), or `mix`."""
        live = self.live()
        for name, rules in self.rules.items():
            if live == rules:
                return name
        if self.balancer.nftables:
            old, new = self.rules["old"], self.rules["new"]
            return "ahead" if _ahead(live, old, new) or _ahead(live, new, old) else "mix"
        tables = {key[:2] for rules in (live, *self.rules.values()) for key in rules}
        whole = all(any(_of(live, table) == _of(rules, table) for rules in self.rules.values()) for table in tables)
        return "part" if whole else "mix"

    def broken_files(self) -> int:
        """Files that differ from the nearer of the old and the new ones: all of them are one whole."""
        kept = self.kept()
        return min(sum(kept.get(name) != files.get(name) for name in {*kept, *files}) for files in self.files.values())

    def check(self, row: Row, allowed: Sequence[str] = ("old", "new", "part", "ahead"), repair: str = "old") -> None:
        """Count what is wrong, and then whether the next run puts everything right."""
        self.balancer.host.call(drill_host.at_rest, str(self.root))
        row.injected += 1
        held = self.holds()
        row.mixed += held not in allowed
        row.files += self.broken_files()
        if held == "part":
            remark = "iptables: tables are changed one after the other, so some may be new already"
            row.remarks += [remark] if remark not in row.remarks else []
        if held == "ahead":
            remark = "nftables: parts of the new rules may be there, with nothing that leads to them"
            row.remarks += [remark] if remark not in row.remarks else []
        self.repair(row, repair)

    def repair(self, row: Row, name: str) -> None:
        self.settle(name)
        leftovers = [path for path in self.root.rglob("*") if path.name.startswith((".natlb-", "rollback."))]
        again = self.settle(name)
        good = self.live() == self.rules[name] and self.kept() == self.files[name]
        if not good or again.changed or leftovers:
            row.unrepaired += 1
            row.remarks.append(f"not repaired: {good=}, changed again: {again.changed}, left over: {leftovers}")


def _ahead(live: Contents, now: Contents, then: Contents) -> bool:
    """Whether every rule is that of `now`, and what is more than that in maps and chains of its own is of `then`."""
    if any(key not in then for key in live.keys() - now.keys()) or now.keys() - live.keys():
        return False
    for key, lines in live.items():
        had, will = now.get(key, []), then.get(key, [])
        grown = "map" in key[-1] and set(had) <= set(lines) <= set(had) | set(will)
        if lines != had and not grown and (key in now or lines != will):
            return False
    return True


def _of(rules: Contents, table: tuple[str, ...]) -> Contents:
    return {key: lines for key, lines in rules.items() if key[:2] == table}


@contextmanager
def traffic_under(field: Field, row: Row) -> Iterator[None]:
    """Connections all the time, and some that stay open; what fails or is cut is counted."""
    client = field.balancer.client
    client.call(traffic.ask, STEADY, 1)
    hammering = client.begin(traffic.hammer, [STEADY], keep=5, limit_s=600.0)
    client.call(traffic.hammering)
    try:
        yield
    finally:
        client.call(traffic.halt)
        seen = hammering.result(60)
        good = sum(count for who, count in seen.answers.items() if who.startswith("web"))
        row.opened = (row.opened or 0) + sum(seen.answers.values()) + seen.kept
        row.lost += sum(seen.answers.values()) - good + sum(seen.cut.values())


def other(name: str) -> str:
    return "new" if name == "old" else "old"


# -- the drills --------------------------------------------------------------------------------------------------------


def killed(field: Field, times: int) -> Row:
    """At a random moment of its whole life; every second time with the programs that it has started."""
    row = Row("module killed (SIGKILL) at a random moment")
    started = time.monotonic()
    field.run("new")
    longest_s = (time.monotonic() - started) * 1.1
    with traffic_under(field, row):
        for turn in range(times):
            name = other("old" if turn % 2 else "new")
            field.settle(other(name))
            after_s = field.rng.uniform(0.02, longest_s)
            field.balancer.host.call(drill_host.kill, str(field.root), field.request(name), after_s, bool(turn % 4 > 1))
            field.check(row, allowed=("old", "new"), repair=name)
    row.seen = "*the task fails; the next run shows what it repairs"
    return row


def killed_before_confirmation(field: Field, times: int) -> Row:
    """The same with a timer armed: nobody confirms, so it is the old rules in the end."""
    row = Row(f"module killed with `rollback_after: {ROLLBACK_S}`")
    request = field.request("new", options={"rollback_after": ROLLBACK_S})
    with traffic_under(field, row):
        for _turn in range(times):
            field.settle("old")
            after_s = field.rng.uniform(0.1, 0.7)
            field.balancer.host.call(drill_host.kill, str(field.root), request, after_s, False)
            field.balancer.host.call(drill_host.at_rest, str(field.root))
            _wait_until_undone(field)
            field.check(row, allowed=("old",))
    row.seen = "*the task fails; the host goes back by itself"
    return row


def _wait_until_undone(field: Field) -> None:
    deadline = time.monotonic() + ROLLBACK_S + 5
    while any(field.root.glob("run/rollback.*/pending")) and time.monotonic() < deadline:
        time.sleep(0.02)
    while any(field.root.glob("run/rollback.*/undoing")) and time.monotonic() < deadline:
        time.sleep(0.02)


def unconfirmed(field: Field, times: int) -> Row:
    row = Row("controller gone between change and confirmation")
    with traffic_under(field, row):
        for _turn in range(times):
            outcome = field.run("new", options={"rollback_after": ROLLBACK_S})
            _wait_until_undone(field)
            try:
                field.balancer.host.call(drive.confirm, str(field.root), outcome["token"])
            except Exception as error:
                row.seen = str(error)
            field.check(row, allowed=("old",))
    return row


def timer_lost(field: Field, times: int) -> Row:
    row = Row("timer of an unconfirmed change lost")
    for _turn in range(times):
        field.run("new", options={"rollback_after": 20})
        field.balancer.host.call(drive.put_off_the_undoing, str(field.root))
        field.balancer.apply(OLD, EGRESS["old"])
        field.check(row, allowed=("old",))
    row.seen = "*nothing; the next run goes back first"
    return row


def rebooted(field: Field, times: int) -> Row:
    """Between the change and its confirmation: the namespace is new, /run is empty, and the unit's script runs."""
    row = Row("reboot between change and confirmation")
    for _turn in range(times):
        field.settle("old")
        outcome = field.run("new", options={"rollback_after": 3})
        field.balancer.lab.reset()
        subprocess.run(["rm", "-rf", str(field.root / "run")], check=True)
        field.balancer.host.sysctl({"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1})
        field.balancer.host.run("sh", str(field.balancer.etc / "boot"))
        try:
            field.balancer.host.call(drive.confirm, str(field.root), outcome["token"])
        except Exception as error:
            row.seen = str(error)
        field.check(row, allowed=("old",))
    return row


@contextmanager
def small_disk(field: Field) -> Iterator[None]:
    """A file system of its own below the files that boot."""
    etc, beside = str(field.balancer.etc), str(field.balancer.etc.with_name("beside"))
    field.balancer.host.run("cp", "-a", etc, beside)
    field.balancer.host.run("mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "drill", etc)
    try:
        field.balancer.host.run("cp", "-aT", beside, etc)
        yield
    finally:
        field.balancer.host.run("umount", etc)
        field.balancer.host.run("rm", "-r", beside)


def _fill(field: Field) -> None:
    with (field.etc / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            pass


def disk_full(field: Field, times: int) -> Row:
    return _unwritable(field, times, Row("disk full"), _fill, (field.etc / "filler").unlink)


def read_only(field: Field, times: int) -> Row:
    def remount(how: str) -> None:
        field.balancer.host.run("mount", "-o", f"remount,{how}", str(field.balancer.etc))

    return _unwritable(field, times, Row("`/etc` read-only"), lambda _field: remount("ro"), lambda: remount("rw"))


def _unwritable(field: Field, times: int, row: Row, break_it: Callable[[Field], None], mend: Callable[[], None]) -> Row:
    with traffic_under(field, row):
        for turn in range(times):
            field.settle("old")
            with small_disk(field):
                break_it(field)
                options = {"rollback_after": ROLLBACK_S} if turn % 2 else {}
                said = field.run("new", options=options)
                if said.get("token"):
                    try:
                        field.balancer.host.call(drive.confirm, str(field.root), said["token"])
                        row.unrepaired += 1
                    except Exception as error:
                        said = {"error": str(error)}
                    _wait_until_undone(field)
                row.seen = row.seen or said.get("error", "")
                row.unrepaired += "error" not in said
                mend()
                field.check(row, allowed=("old",))
    return row


def at_the_same_time(field: Field, times: int) -> Row:
    row = Row("two runs at the same time")
    with traffic_under(field, row):
        for _turn in range(times):
            field.settle(field.rng.choice(("old", "new")))
            both = [
                field.balancer.host.begin(drill_host.run, str(field.root), field.request(name))
                for name in ("old", "new")
            ]
            row.unrepaired += sum("error" in future.result(60) for future in both)
            field.check(row, allowed=("old", "new"))
    row.seen = "*nothing; the second waits for the first"
    return row


def lock_held(field: Field, times: int) -> Row:
    row = Row("another run hangs and holds the lock")
    lock = str(field.root / "run" / "lock")
    for _turn in range(times):
        field.settle("old")
        holding = field.balancer.host.begin(drill_host.hold_lock, lock, 6.0)
        field.balancer.host.call(drill_host.held, lock)
        said = field.run("new", set={"host.store.LOCK_TIMEOUT_S": 0.5})
        row.seen = said.get("error", "")
        row.unrepaired += not row.seen
        holding.result(20)
        field.check(row, allowed=("old",))
    return row


#: Stands in for a program. The call whose turn it is fails: before or after its work, or by being killed.
_WRAPPER = """#!/bin/sh
n=$(flock "{lock}" sh -c 'n=$(($(cat "{count}") + 1)); echo $n > "{count}"; echo $n')
if [ "$n" != "{fatal}" ]; then exec {real} "$@"; fi
case {how} in
  before) echo "drill: failed before its work" >&2; exit 1;;
  after) {real} "$@" >/dev/null 2>&1; echo "drill: failed after its work" >&2; exit 1;;
  killed) kill -9 $$;;
  module) kill -9 "$(cat "{run}/lock")"; exec {real} "$@";;
esac
"""


def _programs(root: Path) -> Path:
    """Beside the balancer's own folder, in which nothing can be executed."""
    return root.with_name(f"{root.name}-programs")


def _wrap(root: Path, fatal: int, how: str) -> str:
    """A folder with such programs in it; the search path that begins with it."""
    folder = _programs(root)
    folder.mkdir(exist_ok=True)
    count = folder / "count"
    count.write_text("0\n")
    for program in PROGRAMS:
        real = next(Path(part, program) for part in ("/usr/sbin", "/sbin", "/usr/bin") if Path(part, program).exists())
        text = _WRAPPER.format(lock=folder / "lock", count=count, fatal=fatal, how=how, real=real, run=root / "run")
        (folder / program).write_text(text)
        (folder / program).chmod(0o755)
    return f"{folder}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _calls(folder: Path) -> int:
    """How many there were; some are made at the same time, and may outlive a run that is killed."""
    argv = ["flock", str(folder / "lock"), "cat", str(folder / "count")]
    return int(subprocess.run(argv, capture_output=True, text=True, timeout=10, check=True).stdout)


def program_fails(field: Field, times: int) -> Row:
    """Every call of nft and iptables in a run in turn, each in three ways."""
    row = Row("nft or iptables fails or is killed in the middle")
    with traffic_under(field, row):
        for said in _at_each_call(field, row, times, ("before", "after", "killed")):
            row.unrepaired += "broken" in said
            error = said.get("error", "")
            if "drill" in error and (not row.seen or "put back" in error):
                row.seen = error
            field.check(row, allowed=("old", "new", "part", "ahead"))
    return row


def killed_at_each_call(field: Field, times: int) -> Row:
    """What the random moments of `killed` may miss: between any two programs, and while each is about to work."""
    row = Row("module killed (SIGKILL) while nft or iptables works, at each of their calls in turn")
    with traffic_under(field, row):
        for said in _at_each_call(field, row, times, ("module",)):
            row.unrepaired += "broken" not in said
            field.check(row, allowed=("old", "new"))
    row.seen = "*the task fails; what it had begun is carried out"
    return row


def _at_each_call(field: Field, row: Row, times: int, ways: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What runs from old to new said, in each of which another call of nft or iptables goes wrong."""
    calls, past_the_end = 0, False
    while not past_the_end and row.injected < times:
        calls += 1
        for how in ways:
            field.settle("old")
            (field.root / "run" / "normal.json").unlink(missing_ok=True)
            said = field.run("new", set={"host.processes.PATH": _wrap(field.root, calls, how)})
            past_the_end = _calls(_programs(field.root)) < calls
            if not past_the_end:
                yield said


def program_missing(field: Field, times: int) -> Row:
    row = Row("nft and iptables not installed")
    for _turn in range(times):
        field.settle("old")
        said = field.run("new", set={"host.processes.PATH": "/nowhere"})
        row.seen = said.get("error", "")
        row.unrepaired += not row.seen
        field.check(row, allowed=("old",))
    return row


def no_capability(field: Field, times: int) -> Row:
    row = Row("no CAP_NET_ADMIN")
    before = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
    for _turn in range(times):
        field.settle("old")
        said = field.run("new", before=before)
        row.seen = said.get("error", "")
        row.unrepaired += not row.seen
        field.check(row, allowed=("old",))
    return row


def clock_jumps(field: Field, times: int) -> Row:
    """By years, at every look; an unconfirmed change is undone after the seconds that really passed."""
    row = Row("clock jumps by ±10 years during the run")
    for turn in range(times):
        field.settle("old")
        started = time.monotonic()
        step_s = (-1) ** turn * 10 * 365 * 86400.0
        said = field.run("new", clock=step_s, options={"rollback_after": ROLLBACK_S} if turn % 3 else {})
        if said.get("token"):
            _wait_until_undone(field)
            row.unrepaired += not ROLLBACK_S * 0.9 < time.monotonic() - started < ROLLBACK_S + 4
        row.unrepaired += "transaction" not in said
        field.check(row, allowed=("old",) if said.get("token") else ("new",))
    return row


def flushed(field: Field, times: int) -> Row:
    row = Row("all rules flushed by somebody else")
    for _turn in range(times):
        field.settle("old")
        if field.balancer.nftables:
            field.balancer.host.run("nft", "flush", "ruleset")
        else:
            for program in ("iptables", "ip6tables"):
                field.balancer.host.run(f"{program}-{field.balancer.variant}", "-t", "nat", "-F")
        row.injected += 1
        row.seen = "*`balancer_info` says `drift: true`, the next run shows the rules as its diff"
        field.repair(row, "old")
    return row


#: Each with how often it is injected per engine: in the short form and in the full one.
DRILLS: dict[str, tuple[Callable[[Field, int], Row], int, int]] = {
    "killed": (killed, 6, 100),
    "killed_at_each_call": (killed_at_each_call, 30, 30),
    "killed_before_confirmation": (killed_before_confirmation, 2, 6),
    "unconfirmed": (unconfirmed, 1, 5),
    "timer_lost": (timer_lost, 1, 5),
    "rebooted": (rebooted, 1, 5),
    "disk_full": (disk_full, 2, 4),
    "read_only": (read_only, 2, 4),
    "at_the_same_time": (at_the_same_time, 2, 6),
    "lock_held": (lock_held, 1, 2),
    "program_fails": (program_fails, 6, 66),
    "program_missing": (program_missing, 1, 3),
    "no_capability": (no_capability, 1, 3),
    "clock_jumps": (clock_jumps, 2, 6),
    "flushed": (flushed, 1, 10),
}
