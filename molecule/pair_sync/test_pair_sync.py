"""Two balancers that copy connections to each other are killed in turn, and established connections go on.

Round robin, and backends that see an address of the balancer: nothing in a packet tells another balancer where it goes.
The tests follow upon each other.
"""

from __future__ import annotations

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "lab"))

import lab
from fleet_clients import (
    BUSY,
    HALF,
    Established,
    all_are_kept,
    on,
    wait_for,
)
from pair_clients import (
    FIRST,
    KEPT,
    KILLED_S,
    SECOND,
    come_back,
    failover,
    kill,
    settle,
    wait_for_holder,
)

FILES = (
    "/etc/conntrackd/conntrackd.conf",
    "/etc/systemd/system/conntrackd.service.d/natlb.conf",
)

PID = ("systemctl", "show", "conntrackd", "--property=MainPID", "--value")


def tracked(host: str) -> int:
    """Established connections to the services `turns` and `turns6` that the host's kernel knows."""
    found = [
        on(host, "conntrack", "--dump", f"--family={family}", "--proto=tcp", f"--orig-port-dst={port}").splitlines()
        for family, port in (("ipv4", 90), ("ipv6", 91))
    ]
    return sum(" ESTABLISHED " in line for lines in found for line in lines)


def wait_for_copies(host: str, count: int) -> None:
    wait_for(lambda: tracked(host) == count, f"{host} has not all of {count} connections")


def test_both_addresses_are_on_one() -> None:
    settle()
    assert [on(host, "systemctl", "is-active", "conntrackd") for host in (FIRST, SECOND)] == ["active\n"] * 2


def test_one_after_the_other_is_killed() -> None:
    held = Established(HALF, BUSY, KEPT)
    assert set(held.answered) == {"web1", "web2"}
    count = 2 * held.opened + 2 * BUSY
    wait_for_copies(SECOND, count)
    outage_s = kill(FIRST, SECOND)
    all_are_kept(held, "client", "busy", "backend", outage_s=outage_s)
    # Whoever comes back knows nothing, and is told of connections that the other one has not begun either.
    come_back(FIRST)
    wait_for_copies(FIRST, count)
    kill(SECOND, FIRST)
    all_are_kept(held, "client", "backend")
    held.stop()
    # As they end, so do their copies.
    come_back(SECOND)
    wait_for(lambda: tracked(FIRST) == tracked(SECOND) == 0, "connections that have ended are still established")


def test_a_move_on_purpose_and_back() -> None:
    held = Established(HALF, BUSY, KEPT)
    count = 2 * held.opened + 2 * BUSY
    wait_for_copies(SECOND, count)
    on(FIRST, "systemctl", "stop", "keepalived")
    wait_for_holder(SECOND)
    # Only copies are to be there: what this host knew itself is gone from its cache, and then from its kernel.
    wait_for(lambda: not on(FIRST, "conntrackd", "-i"), f"{FIRST} still knows connections of its own")
    on(FIRST, "conntrack", "--flush")
    on(FIRST, "systemctl", "start", "keepalived")
    on(SECOND, "systemctl", "restart", "conntrackd")
    wait_for_copies(FIRST, count)
    on(SECOND, "systemctl", "stop", "keepalived")
    wait_for_holder(FIRST)
    all_are_kept(held, "client", "busy", "backend", outage_s=KILLED_S[1])
    held.stop()
    on(SECOND, "systemctl", "start", "keepalived")


def test_daemons_that_are_killed_come_back() -> None:
    """What they have copied is in the kernels, and what is new then is copied as well."""
    held = Established(HALF, BUSY, KEPT)
    count = 2 * held.opened + 2 * BUSY
    wait_for_copies(SECOND, count)
    before = {host: on(host, *PID) for host in (FIRST, SECOND)}
    for host in (FIRST, SECOND):
        on(host, "systemctl", "kill", "--signal=KILL", "conntrackd")
    for host in (FIRST, SECOND):
        wait_for(lambda host=host: on(host, *PID) not in (before[host], "0\n"), "nobody has started it anew")  # type: ignore[misc]
    assert tracked(SECOND) == count
    later = Established(HALF, 0, KEPT)
    wait_for_copies(SECOND, count + 2 * later.opened)
    on(FIRST, "systemctl", "stop", "keepalived")
    wait_for_holder(SECOND)
    all_are_kept(held, "client", "busy", "backend", outage_s=KILLED_S[1], what="both daemons were killed")
    all_are_kept(later, "client", "backend", what="opened after that")
    held.stop()
    later.stop()
    on(FIRST, "systemctl", "start", "keepalived")


def test_somebody_elses_configuration_stays() -> None:
    lab.podman("exec", f"natlb-{SECOND}", "sed", "-i", "1d", FILES[0])
    theirs = on(SECOND, "cat", FILES[0])
    out = failover()
    assert "somebody else has configured conntrackd" in out
    assert out.startswith("exit 2\n")
    failover(natlb_failover_state="absent")
    assert on(SECOND, "cat", FILES[0]) == theirs
    assert on(FIRST, "ls", *FILES) == ""
    lab.podman("exec", f"natlb-{SECOND}", "rm", FILES[0])
    assert failover().startswith("exit 0\n")


def test_without_it_nothing_of_it_is_left() -> None:
    assert failover(natlb_failover_sync=False).startswith("exit 0\n")
    assert [on(host, "ls", *FILES) for host in (FIRST, SECOND)] == ["", ""]
    assert [on(host, "systemctl", "is-active", "conntrackd") for host in (FIRST, SECOND)] == ["inactive\n"] * 2
    assert "conntrackd" not in on(FIRST, "cat", "/etc/keepalived/natlb-moved")
    assert "CHANGED" not in failover(natlb_failover_sync=False)
