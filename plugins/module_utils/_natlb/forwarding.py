# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel settings without which nothing is forwarded, now and at the next boot."""

from __future__ import annotations

import re
from collections.abc import Mapping

from . import routing
from .model import Config
from .ruleset import Ruleset, Section

_FORWARDING = {"ip": "net/ipv4/ip_forward", "ip6": "net/ipv6/conf/all/forwarding"}
#: The file that the role writes. Letters sort after digits, so the `90-hardening.conf` of others comes before it.
SYSCTL_FILE = "zz-natlb.conf"
#: Read in this order by systemd-sysctl (sysctl.d(5)): sorted by file name, whichever directory it lies in.
SYSCTL_DIRECTORIES = ("/usr/lib/sysctl.d", "/run/sysctl.d", "/etc/sysctl.d")


def settings(config: Config) -> dict[str, str]:
    """Kernel settings for a configuration, by name with slashes."""
    return {**{_FORWARDING[family]: "1" for family in config.families()}, **routing.sysctls(config)}


def section(values: Mapping[str, str]) -> Ruleset:
    return {("", "", "sysctl", name): Section((), (value,)) for name, value in values.items()}


def overrides(files: Mapping[str, str], names: list[str]) -> list[str]:
    """Warnings about files (path → text) that will undo a setting at the next boot.

    Those are the ones that sort behind ours, and `/etc/sysctl.conf`, which `sysctl --system` reads last.
    """
    warnings = []
    for path, text in sorted(files.items()):
        base = path.rpartition("/")[2]
        if base <= SYSCTL_FILE and path != "/etc/sysctl.conf":
            continue
        for name in names:
            for found, value in re.findall(r"^\s*-?\s*([\w./*-]+)\s*=\s*(\S+)", text, re.MULTILINE):
                if found.replace(".", "/") == name and value != "1":
                    warnings.append(
                        f"{path} sets {found} = {value} at boot, after {SYSCTL_FILE}: "
                        f"connections will not be forwarded after a reboot; take that line out"
                    )
    return warnings
