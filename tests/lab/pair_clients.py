"""What tests of two balancers that share virtual addresses do, and what their clients see. For molecule/pair*."""

from __future__ import annotations

from collections.abc import Sequence

import attempts
import lab
import pair
from fleet_clients import Seen, clients, on, role, wait_for

ADDRESSES = ("192.0.2.10", "2001:db8:1::10")
#: What clients connect to while something happens.
TARGETS = (f"{ADDRESSES[0]}:80", f"[{ADDRESSES[1]}]:80")
#: Services to which their connections stay open.
KEPT = (f"{ADDRESSES[0]}:90", f"[{ADDRESSES[1]}]:91")
FIRST, SECOND = "balancer", "balancer2"
#: Another host takes over when three advertisements are missing, one a second, and a part of one that its priority says
#: (RFC 9568, 6.1). The last one was sent up to a second before the kill.
KILLED_S = (2.0, 4.0)
#: As many attempts at each target may fail in a row. On a machine that stands still, nobody begins any: so they are
#: counted, and not the seconds. The client's host, which does not have to notice anything, may be quicker by half.
LOST = int(1.5 * KILLED_S[1] / attempts.EVERY_S)
#: Where backends send what they have for clients; it moves along with the addresses.
GATEWAYS = ("10.0.0.10", "2001:db8:2::10")


def holders(address: str) -> list[str]:
    """The hosts that have an address."""
    return [host for host in (FIRST, SECOND) if f" {address}/" in on(host, "ip", "-oneline", "address", "show", "eth0")]


def wait_for_holder(host: str) -> None:
    for address in ADDRESSES:
        wait_for(lambda address=address: holders(address) == [host], f"{address} is not on {host} alone")  # type: ignore[misc]


def keepalived(host: str) -> str:
    """What is another one after a restart."""
    return on(host, "systemctl", "show", "keepalived", "--property=MainPID,ExecMainStartTimestampMonotonic,ActiveState")


def reloads(host: str) -> int:
    return on(host, "journalctl", "--unit=keepalived", "--boot", "--no-pager").count("Reloaded ")


def failover(**variables: object) -> str:
    return role("failover", **variables)


def settle() -> None:
    """Of two new ones the one has the addresses that was ready first. The tests want to know which. Whoever was killed
    by a test that has failed is started again."""
    for host in (FIRST, SECOND):
        lab.podman("start", f"natlb-{host}")
    wait_for(lambda: len(holders(ADDRESSES[0])) == 1 and holders(ADDRESSES[0]) == holders(ADDRESSES[1]), "not on one")
    for host in (FIRST, SECOND):
        wait_for(lambda host=host: on(host, "natlb", "ready") == "ready\n", f"{host} is not ready")  # type: ignore[misc]
    if holders(ADDRESSES[0]) == [SECOND]:
        on(SECOND, "systemctl", "stop", "keepalived")
        wait_for_holder(FIRST)
        on(SECOND, "systemctl", "start", "keepalived")
    wait_for_holder(FIRST)


def kill(host: str, heir: str, what: str = "the balancer is killed", targets: Sequence[str] = TARGETS) -> float:
    """With all its processes. New connections fail until the other one has the addresses. Returns for how long."""
    seen: dict[str, Seen] = {}
    with clients(what, seen, targets):
        lab.podman("kill", f"natlb-{host}")
        wait_for_holder(heir)
    for one in seen.values():
        # One that began shortly before may succeed: its SYN waits while the client still asks who has the address.
        assert one.gap_s > KILLED_S[0] - attempts.TIMEOUT_S
        assert one.lost < LOST
    return max(one.gap_s for one in seen.values())


def come_back(host: str) -> None:
    """Until it is ready, and has left the addresses where they are."""
    lab.podman("start", f"natlb-{host}")
    lab.wait_until_booted(next(one for one in pair.HOSTS if one.name == host))
    wait_for(lambda: on(host, "natlb", "ready") == "ready\n", "it is not ready")
    wait_for(lambda: "Entering BACKUP STATE" in on(host, "journalctl", "--unit=keepalived", "--boot"), "no standby")
