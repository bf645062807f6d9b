# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The marks of packets on their way to backends; see `model/marks.py`.

The first packet of a connection gets its mark in the table nat, where its backend is chosen. All others pass mangle
alone, which is before nat, so they still have the addresses that the client has sent them to: a tree as that of the
dispatch finds the service, and connection tracking knows the backend. Nothing has to be remembered for a connection.

    NATLB.mark, NATLB.answers   -m conntrack --ctstate DNAT --ctdir ORIGINAL -j NATLB..marks
    NATLB..marks                a tree for each protocol and each kind of frontend
    NATLB..mb.…                 -m conntrack --ctreplsrc … -g NATLB..m.…, which sets the mark

MARK is no verdict. Where several trees may have a packet, the first one that has it sets the bits of `mark_mask` as
well, with which no later one is entered; they are taken off behind the last one.
"""

from __future__ import annotations

from collections.abc import Collection

from ..errors import ConfigError
from ..model.entities import Config, Frontend, Service
from ..model.mark_keys import marked
from ..model.marks import Mark
from ..ruleset.names import digest
from . import source_tree
from .dispatch import chain_name, ports_text
from .frontends import add_dispatch, group_of, to_frontend
from .service import Tables

_SIDE = "-m conntrack --ctreplsrc"


def add_marks(tables: Tables, config: Config, by_interface: Collection[Frontend]) -> None:
    """What marks packets, where a service of this family has a mark; `by_interface` are the frontends of `marks.py`.

    Raises `ConfigError` where both would need the same bits.
    """
    services = [service for service in config.services if tables.family in service.families()]
    if not any(service.is_marked for service in services):
        return
    groups = {group_of(tables, frontend) for service in services for frontend in tables.frontends(service)}
    several = len(groups) > len({group.protocol for group in groups})
    if several or by_interface:
        _check_bits(config)
    found = _Marks(tables, Mark(config.mark_mask, config.mark_mask) if several else None)
    # One without a mark may stand before others.
    jumps = add_dispatch(tables, "mangle", [s for s in services if several or s.is_marked], found.rules)
    if several:
        taken = f"{config.mark_mask:#x}/{config.mark_mask:#x}"
        jumps[1:] = [jump.replace(" -j ", f" -m mark ! --mark {taken} -j ") for jump in jumps[1:]]
        # None but ours are taken off: there are packets whose addresses others have changed.
        jumps.append(f"-m mark --mark {taken} -j MARK --set-xmark 0x0/{config.mark_mask:#x}")
    name = chain_name("", "marks")
    tables.chains["mangle", name] = jumps
    enter = [f"-m conntrack --ctstate DNAT --ctdir ORIGINAL -j {name}"]
    tables.enter("mangle", "PREROUTING", "mark", enter)
    # There a changed mark changes the way of the host's own packets (ip_route_me_harder).
    tables.enter("mangle", "OUTPUT", "answers", enter)


def _check_bits(config: Config) -> None:
    for path, mark in marked(dict(enumerate(config.services))):
        if mark.mask & config.mark_mask:
            problem = f"{mark} has bits of mark_mask ({config.mark_mask:#x}), by which iptables tells services apart"
            raise ConfigError(path, problem, "take other bits, another mark_mask, or engine: nftables")


class _Marks:
    """The rules of frontends. `taken` are the bits that say that a packet has met its frontend, where that matters."""

    def __init__(self, tables: Tables, taken: Mark | None) -> None:
        self._tables, self._taken = tables, taken

    def rules(self, service: Service, frontend: Frontend) -> list[str]:
        """What is done with the packets of a frontend."""
        # Others may translate what comes to any other one, so there the backend has to be one of the service.
        alone = frontend.address is not None and not frontend.is_network
        usual = self._with_taken(service.mark) if alone else None
        by_address = self._by_address(service, frontend, usual)
        otherwise = f"-j MARK --set-xmark {usual}" if usual else "-j RETURN"
        if not by_address:
            return [to_frontend(frontend, otherwise)] if usual else []
        return [to_frontend(frontend, f"-j {self._tree(by_address, otherwise)}")]

    def _with_taken(self, mark: Mark | None) -> Mark | None:
        return self._taken.over(mark) if self._taken else mark

    def _by_address(self, service: Service, frontend: Frontend, usual: Mark | None) -> dict[str, dict[str, Mark]]:
        """The marks of backends that have others than the usual one, by address and ports."""
        found: dict[str, dict[str, Mark]] = {}
        for backend in service.backends:
            mark = self._with_taken(service.mark_to(backend)) if backend.family == self._tables.family else None
            if mark is not None and mark != usual:
                ports = ports_text(backend.ports_at(frontend.low, frontend.high))
                found.setdefault(backend.address, {})[ports] = mark
        return found

    def _tree(self, by_address: dict[str, dict[str, Mark]], otherwise: str) -> str:
        """The chain that asks for the backend: one of all frontends that have the same."""
        rules = {
            f"{address}/{self._tables.bits}": self._of_address(address, marks, otherwise)
            for address, marks in by_address.items()
        }
        name = ("", "mb", digest("\n".join([*rules.values(), otherwise])))
        tree = source_tree.build(name, self._tables.bits, rules, otherwise, _SIDE)
        self._tables.chains.update((("mangle", chain), found) for chain, found in tree.items())
        return chain_name(*name)

    def _of_address(self, address: str, marks: dict[str, Mark], otherwise: str) -> str:
        ways = {ports: f"-g {self._setting(mark)}" for ports, mark in marks.items()}
        if len(ways) == 1:
            ((ports, way),) = ways.items()
            return f"{_SIDE} {address} --ctreplsrcport {ports} {way}"
        rules = [*(f"-m conntrack --ctreplsrcport {ports} {way}" for ports, way in ways.items()), otherwise]
        name = chain_name("", "mp", digest("\n".join(rules)))
        self._tables.chains["mangle", name] = rules
        return f"{_SIDE} {address} -g {name}"

    def _setting(self, mark: Mark) -> str:
        name = chain_name("", "m", f"{mark.value:x}_{mark.mask:x}")
        self._tables.chains["mangle", name] = [f"-j MARK --set-xmark {mark}"]
        return name
