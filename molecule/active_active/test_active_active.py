"""Each of two balancers has an address, and copies connections to the other one. One is killed and comes back.

Clients of the other address notice nothing. The tests follow upon each other.
"""

from __future__ import annotations

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "lab"))

import attempts
import lab
from fleet_clients import (
    BUSY,
    HALF,
    Established,
    Seen,
    all_are_kept,
    clients,
    notice_nothing,
    on,
    wait_for,
)
from pair_clients import (
    FIRST,
    LOST,
    SECOND,
    come_back,
    holders,
)

TEN, ELEVEN = "192.0.2.10", "192.0.2.11"
TARGETS = (f"{TEN}:80", f"{ELEVEN}:80")
KEPT = (f"{TEN}:90", f"{ELEVEN}:90")
#: Two advertisements, and a move on purpose.
SOON_S = 3.0


def each_has_its_own() -> bool:
    return [holders(TEN), holders(ELEVEN)] == [[FIRST], [SECOND]]


def tracked(host: str) -> int:
    listed = on(host, "conntrack", "--dump", "--proto=tcp", "--orig-port-dst=90").splitlines()
    return sum(" ESTABLISHED " in line for line in listed)


def test_each_has_its_own() -> None:
    wait_for(each_has_its_own, "not each has its own")
    assert [on(host, "systemctl", "is-active", "conntrackd") for host in (FIRST, SECOND)] == ["active\n"] * 2


def test_one_is_killed_and_comes_back() -> None:
    held = Established(HALF, BUSY, KEPT)
    count = 2 * held.opened + 2 * BUSY
    wait_for(lambda: [tracked(host) for host in (FIRST, SECOND)] == [count] * 2, f"not both have all {count}")
    seen: dict[str, Seen] = {}
    with clients("one of two that serve is killed", seen, TARGETS):
        lab.podman("kill", f"natlb-{FIRST}")
        wait_for(lambda: [holders(TEN), holders(ELEVEN)] == [[SECOND]] * 2, "the other one has not both")
    assert seen[TARGETS[0]].lost < LOST
    # It was not killed.
    notice_nothing(seen[TARGETS[1]])
    all_are_kept(held, "client", "busy", "backend", outage_s=seen[TARGETS[0]].gap_s)
    with clients("it comes back, and takes its address", seen, TARGETS):
        come_back(FIRST)
        wait_for(each_has_its_own, "not each has its own")
    assert seen[TARGETS[0]].lost < SOON_S / attempts.EVERY_S
    # Its address did not move.
    notice_nothing(seen[TARGETS[1]])
    all_are_kept(held, "client", "backend")
    held.stop()
