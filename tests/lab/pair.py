"""The lab with two balancers that share virtual addresses by keepalived: client, balancer, balancer2, web1, web2."""

from __future__ import annotations

import sys

import lab
from layer import Layer

LAYER = Layer("pair", ("keepalived",))


def hosts(image: str) -> tuple[lab.Host, ...]:
    """keepalived gives the balancers their addresses, so they have no unit that does."""
    return (
        lab.Host("balancer", (lab.front(2), lab.back(1, "eth1")), sysctls=lab.NO_FORWARDING, image=image),
        lab.Host("balancer2", (lab.front(3), lab.back(2, "eth1")), sysctls=lab.NO_FORWARDING, image=image),
        *(host for host in lab.HOSTS if host.name in ("client", "web1", "web2")),
    )


HOSTS = hosts(LAYER.image)


def up(layer: Layer) -> None:
    """Make all of it anew, whatever the command line says. `lab.py` removes it."""
    try:
        layer.build()
        lab.up(hosts(layer.image), fresh=True)
    except lab.LabError as error:
        sys.exit(f"lab: {error}")


if __name__ == "__main__":
    up(LAYER)
