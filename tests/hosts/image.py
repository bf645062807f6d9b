# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk of a Debian host, made from Debian's packages alone. About two minutes, once for each recipe.

Stock but for what makes it start quickly and lets the tests in: an initrd that holds no more than the disk needs, no
drivers of hardware that it does not have, static addresses, and a user of whom the tests have the key.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kernel_lab import topology

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "hosts"
#: A user that may become root, as on most hosts that Ansible manages.
USER = "admin"
BUILD_TIMEOUT_S = 1800
DISK_SIZE = "3G"

PACKAGES = (
    "linux-image-amd64", "initramfs-tools", "systemd-sysv", "dbus", "udev", "openssh-server", "python3", "nftables",
    "iptables", "conntrack", "iproute2", "kmod", "procps", "sudo", "keepalived",
)  # fmt: skip
#: Of the drivers, those that a test can use. dpkg leaves the others in the package.
DRIVERS = (
    "virtio/*", "block/virtio_blk.*", "char/hw_random/*", "net/bonding/*", "net/wireguard/*",
    *(f"net/{name}.*" for name in ("dummy", "ifb", "macvlan", "net_failover", "tun", "veth", "virtio_net", "vrf")),
)  # fmt: skip
LEFT_OUT = [
    *(f"/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")),
    *(f"{usr}/lib/modules/*/kernel/{part}/*" for usr in ("", "/usr") for part in ("drivers", "sound")),
]
KEPT = [f"{usr}/lib/modules/*/kernel/drivers/{part}" for usr in ("", "/usr") for part in DRIVERS]

#: What is in the initrd: the way to the disk, and no more.
INITRD = {
    "etc/initramfs-tools/conf.d/lab": "MODULES=list\nBUSYBOX=n\nCOMPRESS=gzip\n",
    "usr/share/initramfs-tools/modules.d/lab": "virtio_pci\nvirtio_blk\next4\n",
}


@dataclass(frozen=True)
class Seat:
    """A place in the lab for a machine: its name, its link-layer addresses by bridge, and its addresses."""

    name: str
    mac: Mapping[str, str]
    front: tuple[str, str]
    back: tuple[str, str]


FIRST = Seat("balancer", topology.MAC, (topology.FRONT, topology.FRONT6), (topology.BACK, topology.BACK6))
#: Beside the first one, for a pair of balancers.
SECOND = Seat(
    "balancer2",
    {"front": "02:00:00:00:00:03", "back": "02:00:00:00:01:f2"},
    ("192.0.2.3", "2001:db8:1::3"),
    ("10.0.0.242", "2001:db8:2::242"),
)

#: By link-layer address: a machine knows by it where it is.
NETWORK = """[Match]
MACAddress={mac}

[Network]
LinkLocalAddressing=ipv6
IPv6AcceptRA=no
{rest}"""
_ROUTES = "".join(
    f"[Route]\nDestination={network}\nGateway={gateway}\n\n"
    for network, gateway in ((topology.CLIENTS, topology.CLIENT), (topology.CLIENTS6, topology.CLIENT6))
)


def network_files(seat: Seat, *more: str) -> dict[str, str]:
    """What systemd-networkd reads, with more addresses on the clients' side."""

    def lines(own: tuple[str, str], *others: str) -> str:
        return "".join(f"Address={address}\n" for address in (f"{own[0]}/24", f"{own[1]}/64", *others))

    rest = {"front": f"{lines(seat.front, *more)}\n{_ROUTES}", "back": lines(seat.back)}
    return {
        f"etc/systemd/network/{seat.name}-{side}.network": NETWORK.format(mac=seat.mac[side], rest=rest[side])
        for side in ("front", "back")
    }


FILES = {
    "etc/hostname": "balancer\n",
    "etc/hosts": "127.0.0.1 localhost balancer\n::1 localhost\n",
    # /run is mounted so by Debian itself.
    "etc/fstab": "tmpfs /tmp tmpfs noexec,nosuid,nodev,mode=1777 0 0\n",
    "etc/sudoers.d/admin": f"{USER} ALL=(ALL) NOPASSWD: ALL\n",
    "etc/ssh/sshd_config.d/lab.conf": "UseDNS no\nPasswordAuthentication no\n",
    **network_files(FIRST, f"{topology.VIP}/32", f"{topology.VIP6}/128"),
    **network_files(SECOND),
}
#: Things that a host without a screen and without a network beyond the lab only loses time with.
MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
    "fstrim.timer", "getty@tty1.service", "serial-getty@ttyS0.service", "systemd-logind.service",
)  # fmt: skip


@dataclass(frozen=True)
class Image:
    """What a machine starts from. Nothing of it is written to."""

    suite: str
    folder: Path

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"

    @property
    def key(self) -> Path:
        return self.folder / "key"

    @property
    def memory(self) -> Path:
        """The machine as it was when it had started, see `machine.started`."""
        return self.folder / "memory"


def build(suite: str) -> Image:
    """The image of a release of Debian; built unless it is there already as this file makes it."""
    image = Image(suite, CACHE / suite)
    image.folder.mkdir(parents=True, exist_ok=True)
    stamp = image.folder / "made-from"
    with (CACHE / f"{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != recipe():
            print(f"\nhosts: building an image of Debian {suite} (some minutes)", file=sys.stderr, flush=True)
            shutil.rmtree(image.folder)
            image.folder.mkdir()
            _build(image)
            stamp.write_text(recipe())
    return image


def recipe() -> str:
    """Changes when the image has to be made anew."""
    return hashlib.sha256((Path(__file__).read_text() + repr(FILES)).encode()).hexdigest()


def _build(image: Image) -> None:
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "tests/hosts", "-f", str(image.key))
    root = image.folder / "root"
    options = [
        "--variant=minbase",
        "--dpkgopt=force-unsafe-io",
        "--skip=check/empty",
        f"--include={','.join(PACKAGES)}",
    ]
    options += [f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT]
    options += [f"--dpkgopt=path-include={path}" for path in KEPT]
    options += [f"--essential-hook={_writing(INITRD)}", f"--customize-hook={_customize(image)}"]
    _run("mmdebstrap", *options, image.suite, str(root))
    for name, to in (("vmlinuz", image.kernel), ("initrd.img", image.initrd)):
        (source,) = (root / "boot").glob(f"{name}-*")
        shutil.copy(source, to)
    _run("truncate", "--size", DISK_SIZE, str(image.disk))
    # Neither is worth anything on a disk that is made anew each time, and both take time to set up.
    _run("mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1", "-d", str(root), str(image.disk))
    shutil.rmtree(root)


def _customize(image: Image) -> str:
    """Shell lines for mmdebstrap; "$1" is the root of the new system."""
    lines = [_writing(FILES), f'chmod 440 "$1"/etc/sudoers.d/{USER}']
    lines += [f'chroot "$1" useradd --create-home --shell /bin/bash {USER}']
    lines += [f'install -d -m 700 -o 1000 -g 1000 "$1"/home/{USER}/.ssh']
    lines += [f'install -m 600 -o 1000 -g 1000 {image.key}.pub "$1"/home/{USER}/.ssh/authorized_keys']
    lines += ['systemctl --root="$1" enable systemd-networkd.service']
    lines += [f'systemctl --root="$1" mask {" ".join(MASKED)}']
    return "\n".join(lines)


def _writing(files: dict[str, str]) -> str:
    lines = []
    for name, text in files.items():
        lines += [f'mkdir -p "$1"/{Path(name).parent}', f"cat > \"$1\"/{name} <<'END'\n{text}END"]
    return "\n".join(["set -e", *lines])


def _run(*argv: str) -> None:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv[:2])}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}"[-4000:])
