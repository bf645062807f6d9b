"""The lab with three balancers behind a router: client, router, balancer, balancer2, balancer3, web1, web2.

    client --- router --+-- balancer  --+-- web1
                        +-- balancer2 --+-- web2
                        +-- balancer3 --+

The router learns by BGP from which balancers it has the addresses of the services, and hashes flows over these. All of
them are in one network, so that packets to the client leave the router out.
"""

from __future__ import annotations

import sys

import lab
from layer import Layer

LAYER = Layer("anycast", ("keepalived", "bird2"))
ADDRESSES = ("203.0.113.10", "2001:db8:113::10")
BALANCERS = ("balancer", "balancer2", "balancer3")
ROUTER = "192.0.2.1", "2001:db8:1::1"
#: BIRD takes all that it may ever need when it starts, or does not start.
_BIRD = ("NET_RAW", "NET_BROADCAST", "NET_BIND_SERVICE")
_ROUTES = (
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv4.fib_multipath_hash_policy=1",
    "net.ipv6.fib_multipath_hash_policy=1",
)


def hosts(image: str) -> tuple[lab.Host, ...]:
    balancers = (
        lab.Host(
            name,
            (lab.front(2 + i), lab.back(11 + i, "eth1")),
            sysctls=lab.NO_FORWARDING,
            image=image,
            capabilities=_BIRD,
        )
        for i, name in enumerate(BALANCERS)
    )
    return (
        lab.Host("router", (lab.front(1),), sysctls=_ROUTES, image=image, capabilities=_BIRD),
        *balancers,
        *(host for host in lab.HOSTS if host.name in ("client", "web1", "web2")),
    )


HOSTS = hosts(LAYER.image)


def up() -> None:
    """Make all of it anew, whatever the command line says. `lab.py` removes it."""
    try:
        LAYER.build()
        lab.up(HOSTS, fresh=True)
        # All are in one network, so the router tells clients of a way without it. Whoever takes it goes to one balancer
        # with all connections of the family, also once that one is dead.
        refused = [
            f"net.{family}.conf.{of}.accept_redirects=0" for family in ("ipv4", "ipv6") for of in ("all", "eth0")
        ]
        client = f"sysctl -qw {' '.join(refused)}"
        ways = "; ".join(f"ip route replace {to} via {via}" for to, via in zip(ADDRESSES, ROUTER, strict=True))
        lab.podman("exec", "natlb-client", "sh", "-ec", f"{client}; {ways}")
        start = "install -o bird -g bird -m 0640 /lab/router.conf /etc/bird/bird.conf; systemctl restart bird"
        lab.podman("exec", "natlb-router", "sh", "-ec", start)
    except lab.LabError as error:
        sys.exit(f"lab: {error}")


if __name__ == "__main__":
    up()
