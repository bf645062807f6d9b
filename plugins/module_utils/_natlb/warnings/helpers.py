# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Helpers that read, and do not translate. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def warnings(needed: Iterable[str], loaded: Iterable[str]) -> Iterator[str]:
    """Modules that translate and are missing, though those that read are there. Where the latter are built into the
    kernel, so are the former."""
    for module in needed:
        if module not in loaded and module.replace("nat", "conntrack") in loaded:
            yield (
                f"helper: the kernel module {module} is not loaded, so addresses in what is read are not translated "
                f"(modprobe {module}; in a container, on the machine itself)"
            )
