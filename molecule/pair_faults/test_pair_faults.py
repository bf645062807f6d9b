"""Two balancers of which something breaks while both live: the way between them, their links, their disks; or one was
away and has an old declaration. What becomes of new and of established connections, and after the repair.

Each test begins with the addresses on the first one.
"""

from __future__ import annotations

import contextlib
import pathlib
import sys
import time
from collections.abc import Iterator

import pytest

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
    run,
    wait_for,
)
from pair_clients import (
    ADDRESSES,
    FIRST,
    GATEWAYS,
    KEPT,
    KILLED_S,
    LOST,
    SECOND,
    TARGETS,
    come_back,
    holders,
    kill,
    settle,
    wait_for_holder,
)
from pair_faults import cut, full, unplugged, without_vrrp

#: Also those of which no balancer but the one that saw the first packet can lead the answer back.
ALL_TARGETS = (*TARGETS, *KEPT)
#: Two advertisements, and neighbours that learn where an address is. As with `LOST`, attempts are counted.
SOON_S = 3.0
#: What is declared while one of them is away.
LATE_PORT = 92
LATE = {
    "natlb_services_late": [
        {
            "name": "late",
            "listen": f"{ADDRESSES[0]}:{LATE_PORT}",
            "backends": [{"address": "10.0.0.3", "port": 9000, "name": "web1"}],
        }
    ]
}


@pytest.fixture(scope="module", autouse=True)
def _way_back() -> None:
    for web in ("web1", "web2"):
        for gateway in GATEWAYS:
            on(web, "ip", "route", "replace", "default", "via", gateway)


@pytest.fixture
def held() -> Iterator[Established]:
    settle()
    made = Established(HALF, BUSY, KEPT)
    yield made
    made.stop()


def on_the_second() -> bool:
    return [holders(address) for address in ADDRESSES] == [[SECOND]] * 2


def both_have_them() -> bool:
    return [holders(address) for address in ADDRESSES] == [[FIRST, SECOND]] * 2


def test_split_brain(held: Established) -> None:
    """Each goes on to serve whoever comes to it. When they hear each other again, one gives the addresses up, and all
    learn where they are now."""
    seen: dict[str, Seen] = {}
    with clients("VRRP is lost between the two, and comes back", seen, ALL_TARGETS):
        with without_vrrp(FIRST, SECOND):
            wait_for(both_have_them, "not both have the addresses")
            time.sleep(2 * KILLED_S[1])
            all_are_kept(held, "client", "backend")
        wait_for_holder(FIRST)
        # Longer than any would fail before it counts as lost.
        time.sleep(2 * SOON_S)
    all_are_kept(held, "client", "busy", "backend", outage_s=SOON_S)
    assert max(one.lost for one in seen.values()) < SOON_S / attempts.EVERY_S, seen


@pytest.mark.parametrize("interface", ["eth0", "eth1"])
def test_a_cable_is_pulled(held: Established, interface: str) -> None:
    """Without a link to its backends, a balancer can still tell the other one that it gives up."""
    seen: dict[str, Seen] = {}
    with contextlib.ExitStack() as stack:
        with clients(f"the link of {interface} is gone", seen, ALL_TARGETS):
            stack.enter_context(unplugged(FIRST, interface))
            wait_for(on_the_second, "the standby has them not")
        assert max(one.lost for one in seen.values()) < (LOST if interface == "eth0" else SOON_S / attempts.EVERY_S)
        all_are_kept(held, "client", "busy", "backend", outage_s=KILLED_S[1])
        with clients("the link is back", seen, ALL_TARGETS):
            stack.close()
            time.sleep(KILLED_S[1])
            wait_for_holder(SECOND)
        notice_nothing(*seen.values())


@pytest.mark.parametrize("interface", ["eth0", "eth1"])
def test_a_link_is_cut_behind_a_switch(held: Established, interface: str) -> None:
    """Nobody sees that but whoever gets no answer: the standby no advertisements, or the agent none of its checks."""
    seen: dict[str, Seen] = {}
    with contextlib.ExitStack() as stack:
        with clients(f"{interface} reaches nobody", seen, ALL_TARGETS):
            stack.enter_context(cut(FIRST, interface))
            wait_for(lambda: SECOND in holders(ADDRESSES[0]), "the standby has them not", 60)
            time.sleep(SOON_S)
        outage_s = max(one.gap_s for one in seen.values())
        all_are_kept(held, "client", "busy", "backend", outage_s=outage_s)
        with clients("it does again", seen, ALL_TARGETS):
            stack.close()
            wait_for(lambda: len(holders(ADDRESSES[0])) == 1 and holders(ADDRESSES[0]) == holders(ADDRESSES[1]), "two")
            time.sleep(2 * SOON_S)
        assert max(one.lost for one in seen.values()) < SOON_S / attempts.EVERY_S, seen


def answered(port: int, times: int = 1) -> list[str]:
    """Who answers a client at once, until nobody does."""
    ask = f"print(socket.create_connection(('{ADDRESSES[0]}', {port}), 1).recv(99).decode().split()[0])"
    return on("client", "python3", "-c", f"import socket\nfor _ in range({times}): {ask}").split()


def connects(port: int) -> bool:
    return bool(answered(port))


def deploy(**variables: object) -> str:
    return run("ansible-playbook", "natlb.netfilter.deploy", **variables)


def test_one_that_was_away_for_a_day(held: Established) -> None:
    """It is ready by what it knows, which is old, and may take over with it. Whoever rolled out meanwhile was told."""
    lab.podman("kill", f"natlb-{SECOND}")
    out = deploy(**LATE)
    assert out.startswith("exit 2\n"), out
    assert f"fatal: [{SECOND}]" in out
    wait_for(lambda: connects(LATE_PORT), "the first one does not serve what was declared meanwhile")
    come_back(SECOND)
    assert on(SECOND, "natlb", "ready") == "ready\n"
    wait_for_holder(FIRST)
    outage_s = kill(FIRST, SECOND, f"{SECOND}, which was away for a day, has to take over", ALL_TARGETS)
    all_are_kept(held, "client", "busy", "backend", outage_s=outage_s)
    assert not connects(LATE_PORT), "it knows what was declared meanwhile, and this test proves nothing"
    come_back(FIRST)
    seen: dict[str, Seen] = {}
    with clients("a run brings it up to date", seen, ALL_TARGETS):
        out = deploy(**LATE)
    assert out.startswith("exit 0\n"), out
    assert connects(LATE_PORT)
    notice_nothing(*seen.values())
    assert deploy().startswith("exit 0\n")


def a_run_changes_nothing() -> None:
    """It has no room for the way back, and says so."""
    out = deploy(**LATE)
    assert out.startswith("exit 2\n"), out
    assert "cannot be written: No space left on device" in out
    assert not connects(LATE_PORT)


@pytest.mark.parametrize("folder", ["/etc", "/var", "/run"])
def test_disks_are_full(folder: str) -> None:
    """On both, the one that has the addresses and the one that is to take them. What becomes of changes is told by
    tests/kernel/test_full_disks.py."""
    settle()
    seen: dict[str, Seen] = {}
    with contextlib.ExitStack() as stack:
        for host in (FIRST, SECOND):
            stack.enter_context(full(host, folder))
        with clients(f"{folder} is full on both, and a backend dies", seen, TARGETS):
            on("web1", "systemctl", "stop", "natlb-identity")
            try:
                for host in (FIRST, SECOND):
                    wait_for(lambda host=host: "down" in on(host, "natlb", "checks"), "not seen")  # type: ignore[misc]
                wait_for(lambda: answered(80, 8) == ["web2"] * 8, "the dead one stays in rotation")
            finally:
                on("web1", "systemctl", "start", "natlb-identity")
            for host in (FIRST, SECOND):
                wait_for(lambda host=host: "down" not in on(host, "natlb", "checks"), "not seen")  # type: ignore[misc]
        assert [on(host, "natlb", "ready") for host in (FIRST, SECOND)] == ["ready\n"] * 2
        if folder == "/run":
            a_run_changes_nothing()
        held = Established(HALF, BUSY, KEPT)
        with clients(f"{folder} is full on both, and the addresses move", seen, ALL_TARGETS):
            on(FIRST, "systemctl", "stop", "keepalived")
            wait_for_holder(SECOND)
            on(FIRST, "systemctl", "start", "keepalived")
        assert max(one.lost for one in seen.values()) < SOON_S / attempts.EVERY_S, seen
        all_are_kept(held, "client", "busy", "backend", outage_s=KILLED_S[1])
        held.stop()
    out = deploy()
    assert out.startswith("exit 0\n"), out
