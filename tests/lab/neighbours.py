"""The lab with a balancer beside others that make rules, all of them off: firewalld, ufw, fail2ban, Docker, netavark.

They would make the lab's image heavier for everybody, so they are a layer of their own, built when first asked for.
"""

from __future__ import annotations

from unittest import mock

import lab

IMAGE = "localhost/natlb-lab:neighbours"
PACKAGES = ("firewalld", "ufw", "fail2ban", "python3-systemd", "docker.io", "netavark")
_BUILDER = "natlb-neighbours-build"
_INSTALL = """set -e
printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d
apt-get update
DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends {packages}
systemctl disable firewalld ufw fail2ban docker docker.socket containerd
# Within a container its other drivers have no file system to work on. No image is ever pulled.
mkdir -p /etc/docker
echo '{{"storage-driver": "vfs"}}' > /etc/docker/daemon.json
rm -rf /usr/sbin/policy-rc.d /var/lib/apt/lists/* /var/cache/apt/*.bin
"""


def recipe() -> str:
    """Changes when the layer has to be built anew."""
    return lab.digest([lab.recipe(), _INSTALL, *PACKAGES])


def build_image() -> None:
    """Build the layer unless it is what the recipe says."""
    lab.build_image()
    template = f'{{{{index .Labels "{lab.RECIPE_LABEL}"}}}}'
    found = lab.run("podman", "image", "inspect", "--format", template, IMAGE, check=False)
    if found.stdout.strip() == recipe():
        return
    lab.say(f"building the image {IMAGE} (about 25 s)")
    lab.run("podman", "rm", "--force", "--ignore", _BUILDER)
    script = _INSTALL.format(packages=" ".join(PACKAGES))
    lab.run("podman", "run", "--name", _BUILDER, "--network=host", lab.IMAGE, "sh", "-c", script)
    changes = [f"--change=LABEL {lab.RECIPE_LABEL}={recipe()}", '--change=CMD ["/sbin/init"]']
    lab.run("podman", "commit", *changes, _BUILDER, IMAGE)
    lab.run("podman", "rm", "--force", _BUILDER)


def up() -> None:
    """The lab, all of it new, its balancer from this image."""
    build_image()
    lab.up(fresh=True)
    balancer = next(host for host in lab.HOSTS if host.name == "balancer")
    with mock.patch.object(lab, "IMAGE", IMAGE):
        lab.start(balancer)
    lab.wait_until_booted(balancer)
