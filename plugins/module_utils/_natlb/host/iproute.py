# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program ip."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import HostError
from ..packets import FAMILIES, Family, family_of
from .observation import observed
from .processes import Command, require, run


@observed
def query(family: Family, *words: str) -> list[dict[str, Any]]:
    """What `ip -json` says; an empty list where there is nothing, or no such table yet."""
    version = "-6" if family == "ip6" else "-4"
    try:
        text = run([require("ip", "iproute2"), version, "-json", *words])
    except HostError as error:
        if "FIB table does not exist" in str(error):
            return []
        raise
    parsed = json.loads(text) if text.strip() else []
    return [item for item in parsed if item]


@observed
def route(target: str, source: str = "", interface: str = "", mark: int = 0) -> tuple[dict[str, Any], str]:
    """What `ip route get` says of a packet to `target`, and why the kernel would not route it; one of the two is empty.

    With an interface the packet comes in there from `source`, so reverse path filters count as well.
    """
    words = ["to", target, *(["from", source] if source else []), *(["iif", interface] if interface else [])]
    words += ["mark", f"{mark:#x}"] if mark else []
    try:
        found = query(family_of(target), "route", "get", *words)
    except HostError as error:
        return {}, str(error).partition("RTNETLINK answers: ")[2].strip() or str(error)
    return (found[0] if found else {}), "" if found else "no route"


def proxies() -> list[str]:
    """The addresses for which this host answers neighbours, though it does not have them."""
    return [
        str(item["dst"]) for family in FAMILIES for item in query(family, "neigh", "show", "proxy") if "dst" in item
    ]


def batch(texts: Mapping[Family, str]) -> list[Command]:
    """What carries these lines of ip(8) out, by family."""
    return [(f"ip {'-6' if family == 'ip6' else '-4'} -batch -", text) for family, text in texts.items()]
