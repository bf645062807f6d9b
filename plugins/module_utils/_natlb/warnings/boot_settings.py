# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of this host that undo the settings of a run at the next boot."""

from __future__ import annotations

import re
from collections.abc import Mapping

#: The file that a run writes. Letters sort after digits, so the `90-hardening.conf` of others comes before it.
SYSCTL_FILE = "zz-natlb.conf"
#: Read in this order by systemd-sysctl (sysctl.d(5)): sorted by file name, whichever directory it lies in.
SYSCTL_DIRECTORIES = ("/usr/lib/sysctl.d", "/run/sysctl.d", "/etc/sysctl.d")


def overrides(files: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Warnings about files (path → text) that will undo a setting at the next boot.

    Those are the ones that sort behind ours, and `/etc/sysctl.conf`, which `sysctl --system` reads last.
    """
    warnings = []
    for path, text in sorted(files.items()):
        base = path.rpartition("/")[2]
        if base <= SYSCTL_FILE and path != "/etc/sysctl.conf":
            continue
        for found, value in re.findall(r"^\s*-?\s*([\w./*-]+)\s*=\s*(\S+)", text, re.MULTILINE):
            name = _slashed(found)
            if wanted.get(name, value) != value:
                lost = (
                    "the default route is lost" if name.endswith("/accept_ra") else "connections will not be forwarded"
                )
                warnings.append(
                    f"{path} sets {found} = {value} at boot, after {SYSCTL_FILE}: {lost} after a reboot; "
                    f"remove that line"
                )
    return warnings


def _slashed(name: str) -> str:
    """The name of a setting with slashes. Where dots divide it, a slash is a dot in the name of an interface
    (sysctl.d(5))."""
    dotted = name.find(".") >= 0 and (name.find("/") < 0 or name.find(".") < name.find("/"))
    return name.translate(str.maketrans("./", "/.")) if dotted else name
