"""The lab with a balancer beside others that make rules, all of them off: firewalld, ufw, fail2ban, Docker, netavark.

They would make the lab's image heavier for everybody, so they are a layer of their own.
"""

from __future__ import annotations

import dataclasses

import lab
from layer import Layer

LAYER = Layer(
    "neighbours",
    ("firewalld", "ufw", "fail2ban", "python3-systemd", "docker.io", "netavark"),
    # Within a container its other drivers have no file system to work on. No image is ever pulled.
    """systemctl disable firewalld ufw fail2ban docker docker.socket containerd
mkdir -p /etc/docker
echo '{"storage-driver": "vfs"}' > /etc/docker/daemon.json""",
)
HOSTS = tuple(dataclasses.replace(host, image=LAYER.image) if host.name == "balancer" else host for host in lab.HOSTS)


def up() -> None:
    """The lab, all of it new, its balancer from this image."""
    LAYER.build()
    lab.up(HOSTS, fresh=True)
