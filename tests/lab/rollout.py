"""The lab with four balancers, each with addresses of its own: client, balancer to balancer4, web1, web2, web3."""

from __future__ import annotations

import sys

import lab

BALANCERS = ("balancer", "balancer2", "balancer3", "balancer4")
HOSTS = (
    *(
        lab.Host(name, (lab.front(2 + i), lab.back(11 + i, "eth1")), sysctls=lab.NO_FORWARDING)
        for i, name in enumerate(BALANCERS)
    ),
    *(host for host in lab.HOSTS if host.name in ("client", "web1", "web2", "web3")),
)


def up() -> None:
    """Make all of it anew, whatever the command line says. `lab.py` removes it."""
    try:
        lab.build_image()
        lab.up(HOSTS, fresh=True)
    except lab.LabError as error:
        sys.exit(f"lab: {error}")


if __name__ == "__main__":
    up()
