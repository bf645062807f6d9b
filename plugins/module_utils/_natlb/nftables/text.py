# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rulesets as the text that nft takes and prints: to load, to read back, and to count."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator, Sequence

from ..model.clients import options as client_options
from ..model.entities import Config, Service
from ..packets import FAMILIES, Family, Protocol, family_named
from ..ruleset.sections import Key, Ruleset, Section
from .names import IDLE_STATES, backend_chain, is_affinity, slot_map

TABLE = "natlb"

Lines = list[str]

#: A first load with more elements is several transactions of about as many.
_MOST_ELEMENTS = 20000


def full(ruleset: Ruleset, replace: Iterable[Family] = FAMILIES) -> str:
    """A ruleset as a file for `nft -f`: one transaction that puts it in the place of whatever our tables held.

    `replace` names the families whose table is taken away first; one that the ruleset lacks is just removed.
    """
    lines: Lines = []
    for family in replace:
        # 1.0.6 has no `destroy`; adding what may be there already makes the deletion safe.
        lines += [f"table {family} {TABLE}", f"delete table {family} {TABLE}"]
    for family in FAMILIES:
        keys = sorted((key for key in ruleset if key.family == family), key=load_order)
        if keys:
            lines.append(f"table {family} {TABLE} {{")
            for key in keys:
                lines += _section_text(key, ruleset[key])
            lines.append("}")
    return "\n".join(lines) + "\n"


def in_parts(ruleset: Ruleset) -> list[str]:
    """Transactions that load a ruleset where nothing of it is yet. The last one hooks it in, so packets meet it whole.

    nft needs up to 2.6 KiB of memory for an element while it loads it.
    """
    if sum(len(section.body) for section in ruleset.values()) <= _MOST_ELEMENTS:
        return [full(ruleset)]
    hooked = {key: section for key, section in ruleset.items() if key.kind == "chain" and section.header}
    # Intervals are merged as they come, so they come together.
    maps = {
        key: section for key, section in ruleset.items() if key.kind == "map" and "flags interval" not in section.header
    }
    bare = {key: Section(section.header, ()) for key, section in maps.items()}
    first = {key: bare.get(key, section) for key, section in ruleset.items() if key not in hooked}
    return [full(first), *_fillings(maps), full(hooked, ())]


def _fillings(maps: Ruleset) -> Iterator[str]:
    """What fills maps, in texts of no more than so many elements."""
    lines, room = Lines(), _MOST_ELEMENTS
    for key, section in maps.items():
        rest = section.body
        while rest:
            lines += element_lines("add", key, rest[:room])
            rest, room = rest[room:], room - len(rest[:room])
            if not room:
                yield "\n".join([*lines, ""])
                lines, room = Lines(), _MOST_ELEMENTS
    if lines:
        yield "\n".join([*lines, ""])


def element_lines(verb: str, key: Key, elements: Sequence[str]) -> Lines:
    """The command that adds elements to a set or map, or deletes them from it."""
    return [f"{verb} element {key.family} {TABLE} {key.name} {{ {', '.join(elements)} }}"] if elements else []


def load_order(key: Key) -> tuple[int, str]:
    """What is led to before what leads there: sets, chains, maps whose elements name chains."""
    return ({"table": 0, "chain": 2, "map": 3}.get(key.kind, 1), key.name)


def kind_words(key: Key) -> str:
    """The kind of a section as nft has it."""
    return f"ct {key.kind}" if key.kind in ("timeout", "helper") else key.kind


def _section_text(key: Key, section: Section) -> Lines:
    if key.kind == "table":
        return []
    lines = [f"  {kind_words(key)} {key.name} {{", *(f"    {line}" for line in section.header)]
    if key.kind == "chain":
        lines += [f"    {line}" for line in section.body]
    elif section.body:
        lines += ["    elements = {", ",\n".join(f"      {element}" for element in section.body), "    }"]
    return [*lines, "  }"]


def parse_listing(text: str) -> Ruleset:
    """The output of `nft -s -nn list ruleset` or `list table`, reduced to our tables.

    Elements that packets put into a set are state, not declaration, and are left out.
    """
    ruleset: Ruleset = {}
    lines = iter(text.splitlines())
    for line in lines:
        for family in FAMILIES:
            if line == f"table {family} {TABLE} {{":
                _parse_table(family, lines, ruleset)
    return ruleset


def _parse_table(family: Family, lines: Iterable[str], ruleset: Ruleset) -> None:
    own: Lines = []
    key: Key | None = None
    block: Lines = []
    for line in lines:
        if line == "}":
            break
        stripped = line.strip()
        if key is None and line.startswith("\t") and line.endswith(" {"):
            kind, name = stripped.removeprefix("ct ").split()[:2]
            key, block = Key(family, TABLE, kind, name), []
        elif key is not None and line == "\t}":
            ruleset[key] = _parse_section(key.kind, block)
            key = None
        elif key is not None:
            block.append(stripped)
        elif stripped:
            own.append(stripped)
    ruleset[Key(family, TABLE, "table", TABLE)] = Section(tuple(own), ())


def _parse_section(kind: str, block: Lines) -> Section:
    if kind == "chain":
        header = [line for line in block[:1] if line.startswith("type ")]
        return Section(tuple(header), tuple(block[len(header) :]))
    start = next((i for i, line in enumerate(block) if line.startswith("elements = {")), len(block))
    header = block[:start]
    dynamic = any(line.startswith("flags ") and "dynamic" in line for line in header)
    body = [] if dynamic else [element.replace(" counter :", " :") for element in _listed(block[start:])]
    return Section(tuple(header), tuple(sorted(body)))


def _listed(lines: Lines) -> Lines:
    """The elements of a set in a listing."""
    inner = "".join(lines)[len("elements = {") : -1]
    return [element.strip() for element in inner.split(",") if element.strip()]


#: Maps of which one element tells how nft lists all: keys and data are numbers, addresses of IPv4 and names of chains,
#: in the spelling that nft has for them. (Addresses of IPv6 have several, and Python and nft do not always agree.)
_UNIFORM = (
    "typeof numgen random mod 65536 : verdict",
    "typeof ip daddr . tcp dport . numgen random mod 65536 : ip daddr . tcp dport",
    "typeof ip daddr . udp dport . numgen random mod 65536 : ip daddr . udp dport",
    "typeof ip daddr . sctp dport . numgen random mod 65536 : ip daddr . sctp dport",
    "type ipv4_addr . inet_proto . inet_service : verdict",
    "type ipv4_addr . inet_service : verdict",
)


#: Sets of networks, which do not overlap; `admission.py` makes them.
_NETWORKS = {
    ("typeof ip saddr", "flags interval"): socket.AF_INET,
    ("typeof ip6 saddr", "flags interval"): socket.AF_INET6,
}


def uniform(key: Key, section: Section) -> bool:
    """Whether one element of a map or set tells how nft lists all of them."""
    if key.kind == "set" and section.header in _NETWORKS:
        return all(_as_printed(network.partition("/")[0], _NETWORKS[section.header]) for network in section.body)
    return key.kind == "map" and section.header[0] in _UNIFORM and "flags interval" not in section.header


def _as_printed(address: str, family: socket.AddressFamily) -> bool:
    """Whether an address is spelled as nft does it, which asks the same library."""
    return socket.inet_ntop(family, socket.inet_pton(family, address)) == address


#: A set that packets fill, as nft lists it.
_FILLED = re.compile(
    r"^\tset (\S+) \{\n(?:\t\t(?!elements).*\n)*?\t\tflags dynamic.*\n"
    r"(?:\t\t(?!elements).*\n)*\t\t(elements = \{[^}]*\})",
    re.MULTILINE,
)


def filled(listing: str) -> dict[Key, Lines]:
    """What packets have put into sets, from a listing with its state."""
    tables = re.split(rf"^table (ip6?) {TABLE} \{{\n", listing, flags=re.MULTILINE)
    return {
        Key(family_named(family), TABLE, "set", match[1]): _listed(match[2].splitlines())
        for family, text in zip(tables[1::2], tables[2::2])
        for match in _FILLED.finditer(text)
    }


def remembered(rendered: Ruleset, listing: str) -> str:
    """What puts the clients that affinity knows into new tables, in the transaction that makes these."""
    return "".join(
        "\n".join([*element_lines("add", key, elements), ""])
        for key, elements in filled(listing).items()
        if key in rendered and is_affinity(key.name)
    )


_TIME = re.compile(r"(\w+) : (\w+)")
_PROTOCOL = re.compile(r"\b(tcp|udp|sctp) [sd]port\b")


def loadable(live: Ruleset) -> Ruleset:
    """What `parse_listing` gave, as nft takes it back.

    nft lists a rule without the `meta l4proto` that its port match implies, and then cannot tell the type of a
    `ct original proto-dst` that stands before the port (1.0.6: variable sized data types). Of an object with time-outs
    it lists none that it has itself as a default, and takes none without any.
    """
    return {key: _loadable(key, section) for key, section in live.items()}


def _loadable(key: Key, section: Section) -> Section:
    if key.kind == "chain":
        return Section(section.header, tuple(map(_with_protocol, section.body)))
    if key.kind == "timeout":
        return Section(tuple(_with_defaults(line, section.header[0]) for line in section.header), section.body)
    return section


#: The one default that is ours alone where it is (src/rule.c of nft: `tcp_dflt_timeout`). Those of UDP differ from each
#: other, and from version to version; our times of one object are all equal, so one that is listed tells the other.
_ESTABLISHED_S = "432000"


def _with_defaults(line: str, of_protocol: str) -> str:
    """The line `policy = { … }` with all times; `of_protocol` is the line `protocol …` of the same object."""
    if not line.startswith("policy = "):
        return line
    listed = dict(_TIME.findall(line))
    one = next(iter(listed.values()), _ESTABLISHED_S)
    times = {**dict.fromkeys(IDLE_STATES.get(of_protocol.rpartition(" ")[2], ()), one), **listed}
    return f"policy = {{ {', '.join(f'{state} : {time}' for state, time in times.items())} }}"


def _with_protocol(rule: str) -> str:
    match = _PROTOCOL.search(rule)
    if match is None or "ct original proto-dst" not in rule or re.match(r"meta l4proto \w", rule):
        return rule
    return f"meta l4proto {match[1]} {rule}"


_SLOT = re.compile(r"^\s*(?:elements = \{ )?(\S+) \. (\d+) \. \d+ counter packets (\d+) bytes \d+ : (\S+) \. (\d+)")
_BACKEND = re.compile(r"counter packets (\d+) bytes \d+ dnat")


def counts_elsewhere(service: Service) -> bool:
    """Whether more than its slots keeps count of the clients or connections of a service."""
    return bool(client_options(service) or service.pins or service.limits_backends) or not service.is_exact


def count(config: Config, listing: str) -> dict[tuple[str, str], int]:
    """New connections by (service, backend key), from a listing with its counters."""
    owners: dict[tuple[str, str, int], Service] = {
        (f.protocol, str(f.address), f.low): service
        for service in config.services
        for f in service.frontends()
        if f.exact
    }
    chains = backend_chains(config)
    found: dict[tuple[str, str], int] = {}
    section, name, slots = "", "", None
    for line in listing.splitlines():
        if line.startswith("\t") and line.endswith(" {"):
            section, name = line.split()[:2]
            slots = slot_map(name) if section == "map" else None
        elif slots is not None:
            _count_slot(line, slots.protocol, owners, found)
        elif section == "chain" and name in chains:
            match = _BACKEND.search(line)
            if match:
                found[chains[name]] = found.get(chains[name], 0) + int(match.group(1))
    return found


def backend_chains(config: Config) -> dict[str, tuple[str, str]]:
    """The chains that lead to a backend alone, with (service, backend key)."""
    return {
        backend_chain(service, protocol, backend): (service.name, backend.key)
        for service in config.services
        for protocol in service.protocols
        for backend in service.backends
    }


def _count_slot(
    line: str, protocol: Protocol, owners: dict[tuple[str, str, int], Service], found: dict[tuple[str, str], int]
) -> None:
    match = _SLOT.match(line)
    service = owners.get((protocol, match.group(1), int(match.group(2)))) if match else None
    if match is None or service is None:
        return
    for backend in service.backends:
        if backend.address == match.group(4) and backend.port_at(int(match.group(2))) == int(match.group(5)):
            key = (service.name, backend.key)
            found[key] = found.get(key, 0) + int(match.group(3))
