"""What can go wrong with one of several balancers: links, the way between two, disks, and its end without a word."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import lab
from fleet_clients import on, wait_for

#: Of all of VRRP, a host hears nothing. The rules are in a table of their own.
DEAF = "table inet deaf { chain input { type filter hook input priority -300; meta l4proto vrrp drop; }; }"
#: What is left of a file system when a test begins, and then filled.
SLACK_KB = 512


@contextlib.contextmanager
def without_vrrp(*hosts: str) -> Iterator[None]:
    """These hosts hear no advertisements, and all else goes on."""
    for host in hosts:
        assert on(host, "sh", "-c", f"nft '{DEAF}' && echo done") == "done\n"
    try:
        yield
    finally:
        for host in hosts:
            on(host, "nft", "delete", "table", "inet", "deaf")


def port(host: str, interface: str) -> str:
    """The port of the lab's switch in which an interface of a host is."""
    index = int(on(host, "cat", f"/sys/class/net/{interface}/iflink"))
    listed = lab.run("nsenter", f"--net={lab.NAMESPACE_PATH}", "ip", "-oneline", "link").stdout.splitlines()
    (name,) = [line.split()[1].partition("@")[0] for line in listed if line.startswith(f"{index}: ")]
    return name


def _switch(*command: str) -> None:
    lab.run("nsenter", f"--net={lab.NAMESPACE_PATH}", *command)


@contextlib.contextmanager
def unplugged(host: str, interface: str) -> Iterator[None]:
    """The interface has no link."""
    name = port(host, interface)
    _switch("ip", "link", "set", "dev", name, "down")
    try:
        yield
    finally:
        _switch("ip", "link", "set", "dev", name, "up")


@contextlib.contextmanager
def cut(host: str, interface: str) -> Iterator[None]:
    """The interface has a link, and nothing passes: it is cut behind the next switch. 0 and 3 are states of a port of a
    bridge, disabled and forwarding (linux/if_bridge.h)."""
    name = port(host, interface)
    _switch("bridge", "link", "set", "dev", name, "state", "0")
    try:
        yield
    finally:
        _switch("bridge", "link", "set", "dev", name, "state", "3")


def end_without_a_word(host: str, *interfaces: str) -> None:
    """As if its power had failed. Of a container that is only killed, the kernel ends connections as processes do, and
    forwards packets until podman takes its network away."""
    for interface in interfaces:
        _switch("bridge", "link", "set", "dev", port(host, interface), "state", "0")
    lab.podman("kill", f"natlb-{host}")


@contextlib.contextmanager
def full(host: str, folder: str) -> Iterator[None]:
    """Nothing more can be written to the file system of this folder. /run is one of its own already; the others are put
    on one, with all that they hold, and back again."""
    own = folder == "/run"
    used = int(on(host, "du", "-skx", folder).split()[0])
    size = f"size={used + SLACK_KB}k"
    if own:
        lines = f"mount -o remount,{size} {folder}"
    else:
        lines = f"cp -ax {folder} /srv/kept && mount -t tmpfs -o {size},mode=755 full {folder}"
        lines += f" && cp -ax /srv/kept/. {folder} && rm -r /srv/kept"
    try:
        assert on(host, "sh", "-c", f"{lines} && echo done") == "done\n", lines
        wait_for(lambda: _filled(host, folder), f"{folder} of {host} does not get full")
        yield
    finally:
        on(host, "rm", "-f", f"{folder}/ballast")
        if own:
            on(host, "mount", "-o", "remount,size=50%", folder)
        else:
            on(host, "sh", "-c", f"if mountpoint -q {folder}; then {_back(folder)}; fi; rm -rf /srv/kept")


def _filled(host: str, folder: str) -> bool:
    """Whoever frees a block meanwhile leaves room, and so it is filled more than once."""
    fill = f"cat /dev/zero >> {folder}/ballast 2> /dev/null; df --output=avail {folder}"
    return on(host, "sh", "-c", fill).split() == ["Avail", "0"]


def _back(folder: str) -> str:
    return f"rm -rf /srv/kept; cp -ax {folder} /srv/kept && umount --lazy {folder} && cp -ax /srv/kept/. {folder}"
