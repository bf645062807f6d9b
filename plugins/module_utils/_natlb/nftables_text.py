# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rulesets as the text that nft takes and prints: to load, to read back, to change, and to count."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from .model import FAMILIES, Backend, Config, Service
from .ruleset import Key, Ruleset, Section

TABLE = "natlb"

Lines = list[str]


def identifier(backend: Backend) -> str:
    """The backend's identity in the letters that nft allows in a name."""
    return backend.address.replace(":", "_") + (f".{backend.port}" if backend.port else "")


def full(ruleset: Ruleset, replace: Iterable[str] = FAMILIES) -> str:
    """A ruleset as a file for `nft -f`: one transaction that puts it in the place of whatever our tables held.

    `replace` names the families whose table is taken away first; one that the ruleset lacks is just removed.
    """
    lines: Lines = []
    for family in replace:
        # 1.0.6 has no `destroy`; adding what may be there already makes the deletion safe.
        lines += [f"table {family} {TABLE}", f"delete table {family} {TABLE}"]
    for family in FAMILIES:
        keys = sorted((key for key in ruleset if key[0] == family), key=_load_order)
        if keys:
            lines.append(f"table {family} {TABLE} {{")
            for key in keys:
                lines += _section_text(key, ruleset[key])
            lines.append("}")
    return "\n".join(lines) + "\n"


def _load_order(key: Key) -> tuple[int, str]:
    return ({"table": 0, "set": 1, "chain": 2, "map": 3}[key[2]], key[3])


def _section_text(key: Key, section: Section) -> Lines:
    if key[2] == "table":
        return []
    lines = [f"  {key[2]} {key[3]} {{", *(f"    {line}" for line in section.header)]
    if key[2] == "chain":
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
        words = line.split()
        if len(words) == 4 and words[0] == "table" and words[2] == TABLE and words[3] == "{":
            _parse_table(words[1], lines, ruleset)
    return ruleset


def _parse_table(family: str, lines: Iterable[str], ruleset: Ruleset) -> None:
    own: Lines = []
    key: Key | None = None
    block: Lines = []
    for line in lines:
        if line == "}":
            break
        stripped = line.strip()
        if key is None and line.startswith("\t") and line.endswith(" {"):
            kind, name = stripped.split()[:2]
            key, block = (family, TABLE, kind, name), []
        elif key is not None and line == "\t}":
            ruleset[key] = _parse_section(key[2], block)
            key = None
        elif key is not None:
            block.append(stripped)
        elif stripped:
            own.append(stripped)
    ruleset[(family, TABLE, "table", TABLE)] = Section(tuple(own), ())


def _parse_section(kind: str, block: Lines) -> Section:
    if kind == "chain":
        header = [line for line in block[:1] if line.startswith("type ")]
        return Section(tuple(header), tuple(block[len(header) :]))
    start = next((i for i, line in enumerate(block) if line.startswith("elements = {")), len(block))
    header = block[:start]
    dynamic = any(line.startswith("flags ") and "dynamic" in line for line in header)
    inner = "".join(block[start:])[len("elements = {") : -1]
    body = [] if dynamic else [element.strip().replace(" counter :", " :") for element in inner.split(",")]
    return Section(tuple(header), tuple(sorted(element for element in body if element)))


_PROTOCOL = re.compile(r"\b(tcp|udp|sctp) [sd]port\b")


def loadable(live: Ruleset) -> Ruleset:
    """What `parse_listing` gave, as nft takes it back.

    nft lists a rule without the `meta l4proto` that its port match implies, and then cannot tell the type of a
    `ct original proto-dst` that stands before the port (1.0.6: variable sized data types).
    """
    return {
        key: Section(section.header, tuple(map(_with_protocol, section.body))) if key[2] == "chain" else section
        for key, section in live.items()
    }


def _with_protocol(rule: str) -> str:
    match = _PROTOCOL.search(rule)
    if match is None or "ct original proto-dst" not in rule or re.match(r"meta l4proto \w", rule):
        return rule
    return f"meta l4proto {match[1]} {rule}"


_SLOT = re.compile(r"^\s*(?:elements = \{ )?(\S+) \. (\d+) \. \d+ counter packets (\d+) bytes \d+ : (\S+) \. (\d+)")
_BACKEND = re.compile(r"counter packets (\d+) bytes \d+ dnat")


def count(config: Config, listing: str) -> dict[tuple[str, str], int]:
    """New connections by (service, backend key), from a listing with its counters."""
    owners = {
        (f.protocol, str(f.address), f.low): service
        for service in config.services
        for f in service.frontends()
        if f.exact
    }
    chains = {
        f"b.{service.name}.{protocol}.{identifier(backend)}": (service.name, backend.key)
        for service in config.services
        for protocol in service.protocols
        for backend in service.backends
    }
    found: dict[tuple[str, str], int] = {}
    section, name = "", ""
    for line in listing.splitlines():
        if line.startswith("\t") and line.endswith(" {"):
            section, name = line.split()[:2]
        elif section == "map" and name.startswith("slot_"):
            _count_slot(line, name.split("_")[1], owners, found)
        elif section == "chain" and name in chains:
            match = _BACKEND.search(line)
            if match:
                found[chains[name]] = found.get(chains[name], 0) + int(match.group(1))
    return found


def _count_slot(
    line: str, protocol: str, owners: dict[tuple[str, str, int], Service], found: dict[tuple[str, str], int]
) -> None:
    match = _SLOT.match(line)
    service = owners.get((protocol, match.group(1), int(match.group(2)))) if match else None
    if match is None or service is None:
        return
    for backend in service.backends:
        if backend.address == match.group(4) and (backend.port or int(match.group(2))) == int(match.group(5)):
            key = (service.name, backend.key)
            found[key] = found.get(key, 0) + int(match.group(3))


# -- transactions ----------------------------------------------------------------------------------------------------


def delta(live: Ruleset, normal: Ruleset, rendered: Ruleset, drop_chains: bool = True) -> list[str] | None:
    """Transactions that turn `live` into `normal`, or None where only a replacement of the tables can.

    `normal` is `rendered` as the kernel lists it. One transaction makes the change; one before it only adds what
    nothing leads to yet, and one after it takes away slots that nothing leads to any more. The reason: a packet on its
    way reads the rules of the generation in which it began, but the elements of the one that is current
    (nf_tables_api.c). In one transaction such a packet could be led to a chain that has no rules in its generation, or
    to slots that have moved to another map, and would not be translated.

    With `drop_chains` False (kernels before 6.2 cannot delete a chain in the transaction that takes the last element
    naming it), a change that would have to is left to a replacement.
    """
    gone = [key for key in live if key not in normal]
    if any(key[2] == "table" for key in [*gone, *(key for key in normal if key not in live)]):
        return None
    kept = [key for key in normal if key in live]
    if any(live[key].header != normal[key].header for key in kept):
        return None
    if not drop_chains and any(key[2] == "chain" for key in gone):
        return None
    new = sorted((key for key in normal if key not in live), key=_load_order)
    changed = [key for key in kept if live[key].body != normal[key].body]
    slots = [key for key in changed if key[3].startswith("slot_")]
    ahead = {key: _new_slots(live[key], normal[key]) for key in slots}
    behind = {key: _left_slots(live[key], normal[key]) for key in slots}
    late = [key for key in gone if key[3].startswith(("slot_", "first_slot_"))]
    texts = [
        _additions(new, normal, rendered, ahead),
        _switch(changed, [key for key in gone if key not in late], live, normal, rendered, (ahead, behind)),
        _removals(late, live, behind),
    ]
    return ["\n".join(lines) + "\n" for lines in texts if lines]


def _new_slots(live: Section, normal: Section) -> set[str]:
    """Elements whose slot does not exist yet: no rule that is live picks it."""
    taken = {element.partition(" : ")[0] for element in live.body}
    return {element for element in normal.body if element.partition(" : ")[0] not in taken}


def _left_slots(live: Section, normal: Section) -> set[str]:
    """Elements of services that the map has no slots of any more: they are gone, or live in another map."""
    staying = {_service(element) for element in normal.body}
    return {element for element in live.body if _service(element) not in staying}


def _service(element: str) -> str:
    """Address and port of a slot."""
    return element.partition(" : ")[0].rpartition(" . ")[0]


def _additions(new: Sequence[Key], normal: Ruleset, rendered: Ruleset, ahead: Mapping[Key, set[str]]) -> Lines:
    lines: Lines = [_declaration(key, rendered[key]) for key in new]
    for key in new:
        if key[2] == "chain":
            lines += [f"add rule {_where(key)} {rule}" for rule in rendered[key].body]
        else:
            lines += _elements("add", key, normal[key].body)
    for key, elements in ahead.items():
        lines += _elements("add", key, sorted(elements))
    return lines


def _switch(
    changed: Sequence[Key],
    gone: Sequence[Key],
    live: Ruleset,
    normal: Ruleset,
    rendered: Ruleset,
    others: tuple[Mapping[Key, set[str]], Mapping[Key, set[str]]],
) -> Lines:
    """What changes at once; `others` are the elements that come before it and that go after it."""
    ahead, behind = others
    lines: Lines = [f"flush chain {_where(key)}" for key in [*changed, *gone] if key[2] == "chain"]
    for key in [*changed, *gone]:
        if key[2] != "chain":
            keep = set(normal[key].body if key in normal else ()) | behind.get(key, set())
            lines += _elements("delete", key, [e for e in live[key].body if e not in keep])
    for key in changed:
        if key[2] == "chain":
            lines += [f"add rule {_where(key)} {rule}" for rule in rendered[key].body]
        else:
            had = set(live[key].body) | ahead.get(key, set())
            lines += _elements("add", key, [e for e in normal[key].body if e not in had])
    return lines + _deletions(gone)


def _removals(late: Sequence[Key], live: Ruleset, behind: Mapping[Key, set[str]]) -> Lines:
    lines: Lines = [f"flush chain {_where(key)}" for key in late if key[2] == "chain"]
    for key, elements in behind.items():
        lines += _elements("delete", key, sorted(elements))
    for key in late:
        if key[2] != "chain":
            lines += _elements("delete", key, live[key].body)
    return lines + _deletions(late)


def _deletions(gone: Sequence[Key]) -> Lines:
    return [f"delete {key[2]} {_where(key)}" for key in sorted(gone, key=_load_order, reverse=True)]


def _where(key: Key) -> str:
    return f"{key[0]} {TABLE} {key[3]}"


def _declaration(key: Key, section: Section) -> str:
    inner = "; ".join(line.rstrip(";") for line in section.header)
    return f"add {key[2]} {_where(key)}" + (f" {{ {inner}; }}" if inner else "")


def _elements(verb: str, key: Key, elements: Sequence[str]) -> Lines:
    if not elements:
        return []
    return [f"{verb} element {_where(key)} {{ {', '.join(elements)} }}"]
