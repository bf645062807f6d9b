# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Foreign chains as iptables-save and nft print them, read for `walk.py`.

Both are read only as far as necessary to decide whether a packet passes. All other matches of a rule are kept as
matches that cannot be decided.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any

from ..host.nf_tables import BaseChain, TableFamily
from ..iptables.dispatch import PREFIX
from ..packets import FAMILIES, Family
from .walk import Chains, Match, Rule

#: Family, table and name of a base chain of nft.
Hook = tuple[TableFamily, str, str]

#: The built-in chains of iptables that packets of ours pass: kind, hook and priority of each by table and name
#: (linux/netfilter_ipv4.h).
BUILTIN = {
    ("raw", "PREROUTING"): ("filter", "prerouting", -300),
    ("mangle", "PREROUTING"): ("filter", "prerouting", -150),
    ("nat", "PREROUTING"): ("nat", "prerouting", -100),
    ("mangle", "POSTROUTING"): ("filter", "postrouting", -150),
    ("nat", "POSTROUTING"): ("nat", "postrouting", 100),
    ("filter", "FORWARD"): ("filter", "forward", 0),
}

# -- iptables-save -------------------------------------------------------------------------------------------------

_IPTABLES = {
    "-i": "iif",
    "-o": "oif",
    "-p": "protocol",
    "-s": "source",
    "-d": "target",
    "--dport": "port",
    "--dports": "port",
    "--ctstate": "ctstate",
    "--state": "ctstate",
    "--dst-type LOCAL": "local",
    # Of the reverse path: `-m rpfilter --invert` is met by what did not come by the way back to its source.
    "--invert": "astray",
}
_IPTABLES_VERDICTS = {
    "ACCEPT": "accept",
    "DROP": "deny",
    "REJECT": "deny",
    "RETURN": "return",
    "NOTRACK": "untrack",
    **dict.fromkeys(("DNAT", "REDIRECT", "NETMAP", "SNAT", "MASQUERADE"), "translate"),
}


def parse_save(family: Family, text: str, place: str, table: str = "filter", builtin: str = "FORWARD") -> Chains | None:
    """A table from the output of `iptables-save`, without chains of ours; None where it has no such built-in chain, or
    where iptables cannot read it."""
    block = re.search(rf"^\*{table}\n(.*?)^COMMIT$", text, re.MULTILINE | re.DOTALL)
    policy = re.search(rf"^:{builtin} (\w+)", block[1], re.MULTILINE) if block else None
    if block is None or policy is None:
        return None
    chains = Chains(place, family, builtin, policy[1])
    chains.policy = "accept" if policy[1] == "ACCEPT" else policy[1]
    for name in re.findall(r"^:(\S+)", block[1], re.MULTILINE):
        chains.rules[name] = []
    for line in block[1].splitlines():
        if line.startswith("-A ") and not line.startswith(f"-A {PREFIX}"):
            rule = _iptables_rule(line, chains.rules.keys())
            if rule is not None:
                chains.rules.setdefault(line.split()[1], []).append(rule)
    return chains


def _iptables_rule(line: str, known: Container[str]) -> Rule | None:
    """None where the rule only logs, marks or counts."""
    try:
        words = shlex.split(line)[2:]
    except ValueError:
        return None
    matches: list[Match] = []
    negated = False
    position = 0
    while position < len(words):
        word = words[position]
        values = []
        position += 1
        if word == "--comment":
            position += 1
        while position < len(words) and words[position] != "!" and not words[position].startswith("-"):
            values.append(words[position])
            position += 1
        if word in ("-j", "-g"):
            target = "NOTRACK" if "--notrack" in words[position:] else values[0] if values else ""
            return _iptables_verdict(word, target, tuple(matches), line, known)
        if word == "!":
            negated = True
            continue
        if word not in ("-m", "--comment", "--validmark"):
            text = ",".join(values)
            kind = _IPTABLES.get(f"{word} {text}") or _IPTABLES.get(word, word)
            text = text.lower() if kind in ("protocol", "ctstate", "local") else text
            matches.append(Match(kind, tuple(text.split(",")), negated))
        negated = False
    return None


def _iptables_verdict(
    how: str, target: str, matches: tuple[Match, ...], line: str, known: Container[str]
) -> Rule | None:
    if target in _IPTABLES_VERDICTS:
        return Rule(matches, _IPTABLES_VERDICTS[target], text=line)
    if target in known:
        return Rule(matches, "goto" if how == "-g" else "jump", target, line)
    # A queue's program may do anything.
    return Rule(matches, "accept", text=line) if target in ("QUEUE", "NFQUEUE") else None


# -- nft -----------------------------------------------------------------------------------------------------------

_NFT_KINDS = {
    "iifname": "iif",
    "iif": "iif",
    "oifname": "oif",
    "oif": "oif",
    "meta nfproto": "family",
    "meta l4proto": "protocol",
    "ip protocol": "protocol",
    "ct state": "state",
    "ct status": "status",
    "saddr": "source",
    "daddr": "target",
    "dport": "port",
    "fib daddr type": "local",
    "fib saddr . iif oif": "astray",
    "fib saddr . mark . iif oif": "astray",
}
_NFT_FAMILIES = {"ipv4": "ip", "ipv6": "ip6"}
_NFT_MATCH = re.compile(
    r"(?:(?P<l3>ip6?) (?=[sd]addr)|(?P<l4>tcp|udp|sctp|th) (?=dport))?"
    r"(?P<what>fib daddr type|fib saddr \. (?:mark \. )?iif oif|iifname|oifname|iif|oif"
    r"|meta nfproto|meta l4proto|ip protocol|ct state|ct status|[sd]addr|dport) "
    r"(?P<no>!= )?(?P<values>\{[^}]*\}|\"[^\"]*\"|(?:[^\s,]+, ?)*[^\s,]+) ?"
)
#: Statements that decide nothing.
_NFT_IDLE = re.compile(
    r"counter(?: packets \d+ bytes \d+| name \S+)? ?"
    r"|log(?: (?:prefix \"[^\"]*\"|(?:level|group|snaplen|queue-threshold) \w+|flags (?:tcp |ip )?[\w,]+))* ?"
    r"|(?:meta|ct) \w+ set \w+ "
)
_NFT_VERDICT = re.compile(
    r"\b(accept|drop|return|notrack|reject(?: with .*)?|queue\b.*|(?:jump|goto) \S+"
    r"|(?:masquerade|redirect)(?: to :\S+)?(?: (?:random|fully-random|persistent)[\w,-]*)?"
    r"|[sd]nat (?:ip6? )?(?:prefix )?to .*)$"
)
#: A translation that looks its target up finds one for every packet only where a number is looked up.
_NFT_LOOKUP = re.compile(r" to (?!numgen |jhash |symhash ).* map ")
#: A queue's program may do anything.
_NFT_VERDICTS = {
    "queue": "accept",
    "drop": "deny",
    "reject": "deny",
    "notrack": "untrack",
    **dict.fromkeys(("dnat", "snat", "redirect", "masquerade"), "translate"),
}
_NFT_STATE_MAP = re.compile(r"ct state vmap \{ ?(.*?) ?\}$")
_NFT_BASE = re.compile(
    r"type (\w+) hook (\w+)(?: device \"([^\"]*)\"| devices = \{ ([^}]*) \})? priority ([^;]*);(?: policy (\w+);)?"
)


def parse_nft(listing: str, hook: str = "forward") -> Iterator[Chains]:
    """The base chains at a hook of one table and the chains that they lead to, but for ours; one of each per family."""
    table = re.search(r"^table (\S+) (\S+) \{", listing, re.MULTILINE)
    if table is None:
        return
    rules: dict[str, list[Rule]] = {}
    bases: list[tuple[str, str]] = []
    for name, body in re.findall(r"^\tchain (\S+) \{\n(.*?)^\t\}", listing, re.MULTILINE | re.DOTALL):
        if name.startswith(PREFIX):
            continue
        rules[name] = []
        for line in map(str.strip, body.splitlines()):
            base = _NFT_BASE.match(line)
            if base:
                bases += [(name, base[6] or "accept")] if base[2] == hook else []
            elif line and not line.startswith(("type ", "comment ", "policy ")):
                rules[name] += _nft_rules(line)
    for name, policy in bases:
        for family in [each for each in FAMILIES if each == table[1]] or FAMILIES:
            yield Chains(f"table {table[1]} {table[2]}, chain {name}", family, name, policy, rules)


def _nft_rules(line: str) -> list[Rule]:
    """What one line does: nothing, a verdict, or several that a map of connection states holds."""
    text = re.sub(r" comment \"[^\"]*\"$", "", line)
    states = _NFT_STATE_MAP.search(text)
    if states:
        head = _nft_matches(text[: states.start()])
        pairs = [entry.split(" : ") for entry in states[1].split(", ") if " : " in entry]
        decided = [(state, verdict) for state, verdict in pairs if verdict != "continue"]
        return [_nft_rule((*head, Match("state", (state,))), verdict, line) for state, verdict in decided]
    found = _NFT_VERDICT.search(text)
    if found is None:
        # A map whose verdicts are not looked up here may lead anywhere.
        return [Rule((Match("vmap", ()),), "accept", text=line)] if " vmap " in f" {text}" else []
    return [_nft_rule(_nft_matches(text[: found.start()]), found[1], line)]


def _nft_rule(matches: tuple[Match, ...], verdict: str, line: str) -> Rule:
    word, _space, target = verdict.partition(" ")
    if word in ("jump", "goto"):
        return Rule(matches, word, target, line)
    if _NFT_LOOKUP.search(verdict):
        matches = (*matches, Match("map", ()))
    return Rule(matches, _NFT_VERDICTS.get(word, word), text=line)


def _nft_matches(text: str) -> tuple[Match, ...]:
    """The matches up to the first unknown one, which represents the rest."""
    matches: list[Match] = []
    text = text.strip().replace("ct status & dnat == dnat", "ct status dnat")
    while text := text.lstrip():
        idle = _NFT_IDLE.match(text)
        if idle and idle.end():
            text = text[idle.end() :]
            continue
        found = _NFT_MATCH.match(text)
        if found is None:
            return (*matches, Match("unknown", (text,)))
        if found["l3"]:
            matches.append(Match("family", (found["l3"],)))
        if found["l4"] and found["l4"] != "th":
            matches.append(Match("protocol", (found["l4"],)))
        values = [value.strip().strip('"') for value in found["values"].strip("{} ").split(",")]
        if found["what"] == "meta nfproto":
            values = [_NFT_FAMILIES.get(value, value) for value in values]
        matches.append(Match(_NFT_KINDS[found["what"]], tuple(values), bool(found["no"])))
        text = text[found.end() :]
    return tuple(matches)


def forward_hooks(chains: Iterable[BaseChain]) -> list[Hook]:
    """Those at the forward hook."""
    return [
        (chain.family, chain.table, chain.name)
        for chain in chains
        if (chain.kind, chain.hook) == ("filter", "forward") and chain.family in ("ip", "ip6", "inet")
    ]


def is_of_iptables(chain: Sequence[Any]) -> bool:
    """Whether a base chain (family, table, name, ...) bears the name of one that iptables makes.

    nft makes tables of these names too: see `native.py`.
    """
    return chain[0] in ("ip", "ip6") and (chain[1], chain[2]) in BUILTIN
