# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client and a backend behind one bridge of this host, whose frames br_netfilter passes through our rules.

The bridge then forwards the translated frame itself, and never back by the port that it came in by, unless that port is
in hairpin mode (`warnings/bridges.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..host import links
from ..warnings import bridges
from .question import Question
from .steps import Step


def steps(question: Question, backend: str, interface: str) -> Iterator[Step]:
    """What a bridge does with the way to this backend; nothing where no bridge has a part in it."""
    if question.family not in bridges.filtered():
        return
    every = links.read()
    if any(link.name == interface and link.kind == "bridge" for link in every):
        hairpin = {link.name: link.hairpin for link in every if link.master == interface}
        yield judged(question.client, backend, interface, links.bridge_ports(interface), hairpin)


def judged(client: str, backend: str, bridge: str, ports: Mapping[str, str], hairpin: Mapping[str, bool]) -> Step:
    """`ports` are those by which addresses were seen last, and `hairpin` tells of each port whether frames may go back
    by it. Pure."""
    begins, ends = ports.get(client), ports.get(backend)
    if client == backend:
        begins = ends = begins or ends
    if begins and ends and begins != ends:
        return Step("bridge", "ok", f"{bridge} passes it from {begins} to {ends}")
    port = begins or ends
    if all(hairpin.values()) or (port and begins == ends and hairpin.get(port)):
        return Step("bridge", "ok", f"{bridge} may send a frame back to its port")
    if client == backend or (port and begins == ends):
        here = port or "its port"
        said = f"with br_netfilter {bridge} forwards it itself, and never back by {here} where it came in"
        remedy = f"bridge link set dev {port or 'PORT'} hairpin on"
        return Step("bridge", "stops" if port or not any(hairpin.values()) else "may", said, remedy)
    said = f"with br_netfilter {bridge} forwards it itself, and never back by the port where it came in"
    return Step("bridge", "may", f"{said}; which ports {client} and {backend} are behind is not known")
