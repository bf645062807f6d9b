# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernel settings. Their names have slashes, since the name of an interface may contain dots."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence

from ..errors import HostError
from . import proc
from .observation import observed


def path(name: str) -> str:
    """Names are written with slashes (`net/ipv4/ip_forward`), since the name of an interface may hold dots."""
    return f"/proc/sys/{name}"


def get_unobserved(name: str) -> str | None:
    """As `get`, of what is kept once it was seen, so that no later run looks at it."""
    return proc.read_unobserved(path(name)).strip() or None


@observed
def get(name: str) -> str | None:
    """What the setting is; None where there is none."""
    return proc.read(path(name)).strip() or None


@observed
def writable(name: str) -> bool:
    return os.access(path(name), os.W_OK)


def write(name: str, value: str) -> None:
    try:
        with open(path(name), "w", encoding="ascii") as file:
            file.write(value)
    except OSError as error:
        raise HostError(
            f"sysctl {name}: {error.strerror} (set it to {value} in the configuration of this host)"
        ) from error
    now = get(name)
    if now != value:
        raise HostError(f"sysctl {name}: set to {value}, but the kernel says {now}")


@observed
def files(directories: Sequence[str]) -> dict[str, str]:
    """The files that set sysctls at boot, path to text; one directory's file hides those of the same name before it."""
    by_name: dict[str, str] = {}
    for directory in directories:
        for path in sorted(glob.glob(f"{directory}/*.conf")):
            by_name[os.path.basename(path)] = path
    paths = [*by_name.values(), "/etc/sysctl.conf"]
    return {path: text for path in paths for text in [proc.read(path)] if text}


def number(name: str) -> int:
    """A setting as a number; 0 where there is none."""
    text = get(name) or ""
    return int(text) if text.isdigit() else 0
