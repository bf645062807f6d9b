"""The lab with two balancers that share virtual addresses by keepalived: client, balancer, balancer2, web1, web2."""

from __future__ import annotations

import sys

import lab
from layer import Layer

LAYER = Layer("pair", ("keepalived",))
#: keepalived gives them their addresses, so they have no unit that does.
BALANCERS = (
    lab.Host("balancer", (lab.front(2), lab.back(1, "eth1")), sysctls=lab.NO_FORWARDING, image=LAYER.image),
    lab.Host("balancer2", (lab.front(3), lab.back(2, "eth1")), sysctls=lab.NO_FORWARDING, image=LAYER.image),
)
HOSTS = (*BALANCERS, *(host for host in lab.HOSTS if host.name in ("client", "web1", "web2")))


def up() -> None:
    """Make all of it anew, whatever the command line says. `lab.py` removes it."""
    LAYER.build()
    lab.up(HOSTS, fresh=True)


if __name__ == "__main__":
    try:
        up()
    except lab.LabError as error:
        sys.exit(f"lab: {error}")
