# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Routing for outbound balancing: NAT alone does not choose the way out; a mark, a rule and a table do.

The engines put the chosen uplink into the connection mark and, for each packet, into the packet's mark. Here stand the
rules that read it: one for all uplinks that keeps everything but the default route in the main table, and one per
uplink that sends the rest into a table with that uplink's gateway.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ..model.entities import Config
from ..model.outbound import Uplink, mark_value
from ..packets import FAMILIES, Family
from ..ruleset.sections import Key, Ruleset, Section, compare

#: Rule preferences and table numbers of ours: this one, and one above it for each uplink. All below main's 32766.
BASE = 24600
#: So many are ours, whoever put them there: where a run has lost what the last one declared, it finds them nonetheless.
_AT_LEAST = 63


def render(config: Config, without: Collection[Uplink] = ()) -> Ruleset:
    """Sections of kind `rule` and `route`, named by preference or table, with the words that `ip` takes as body.

    The rules are complete; there is no route of the uplinks in `without`, which cannot have one now.
    """
    ruleset: Ruleset = {}
    mask = config.mark_mask
    for index, uplink in enumerate(config.uplinks()):
        family = uplink.family
        main = f"not fwmark 0/{mask:#x} lookup main suppress_prefixlength 0"
        ruleset[_key(family, "rule", BASE)] = Section((), (main,))
        table = BASE + index + 1
        marked = f"fwmark {mark_value(mask, index):#x}/{mask:#x} lookup {table}"
        ruleset[_key(family, "rule", table)] = Section((), (marked,))
        if uplink not in without:
            ruleset[_key(family, "route", table)] = Section((), (_words("default", uplink.gateway, uplink.interface),))
    return ruleset


def sysctls(config: Config) -> dict[str, str]:
    """With the mark in the reverse path check, replies on an uplink pass `rp_filter=1` without loosening it."""
    found = {}
    for uplink in config.uplinks():
        if uplink.family == "ip":
            found[f"net/ipv4/conf/{uplink.interface}/src_valid_mark"] = "1"
    return found


def _words(target: Any, gateway: Any, interface: Any) -> str:
    """A route as ip(8) takes it and prints it."""
    return f"{target} via {gateway} dev {interface}" if gateway else f"{target} dev {interface}"


def _key(family: Family, kind: str, number: int) -> Key:
    return Key(family, "uplinks", kind, str(number))


def parse_rules(family: Family, rules: Sequence[dict[str, Any]], uplinks: int) -> Ruleset:
    """Our rules from `ip -json rule show`: those of as many uplinks, or of the fewest that are always looked for."""
    last = BASE + max(uplinks, _AT_LEAST)
    bodies: dict[int, list[str]] = {}
    for rule in rules:
        preference = int(rule.get("priority", 0))
        if not BASE <= preference <= last:
            continue
        words = "not " if "not" in rule else ""
        words += f"fwmark {rule.get('fwmark', '0')}/{rule.get('fwmask', '0xffffffff')} lookup {rule.get('table')}"
        if "suppress_prefixlen" in rule:
            words += f" suppress_prefixlength {rule['suppress_prefixlen']}"
        bodies.setdefault(preference, []).append(words.replace("fwmark 0x0/", "fwmark 0/"))
    return {_key(family, "rule", number): Section((), tuple(body)) for number, body in bodies.items()}


def parse_routes(family: Family, table: int, routes: Sequence[dict[str, Any]]) -> Ruleset:
    """A route without a carrier (`linkdown`) is there as well: to put it in place again would change nothing."""
    body = tuple(_words(route.get("dst"), route.get("gateway"), route.get("dev")) for route in routes)
    return {_key(family, "route", table): Section((), body)} if body else {}


def batch(live: Ruleset, wanted: Ruleset) -> dict[Family, str]:
    """Lines for `ip -batch` per family that turn `live` into `wanted`: new ways first, old ones last."""
    changes = compare(live, wanted)
    texts = {}
    for family in FAMILIES:
        lines: list[str] = []
        for key in [*changes.added, *changes.modified]:
            if key.family == family and key.kind == "route":
                lines += [f"route replace {words} table {key.name}" for words in wanted[key].body]
        for key in [*changes.modified, *changes.removed]:
            if key.family == family and key.kind == "rule":
                lines += [f"rule delete pref {key.name}"] * len(live[key].body)
        for key in [*changes.added, *changes.modified]:
            if key.family == family and key.kind == "rule":
                lines += [f"rule add pref {key.name} {words}" for words in wanted[key].body]
        lines += [f"route flush table {k[3]}" for k in changes.removed if k[0] == family and k[2] == "route"]
        if lines:
            texts[family] = "\n".join(lines) + "\n"
    return texts
