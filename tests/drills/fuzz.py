# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Seeded fuzz of the parser and of both renderers: declarations that are almost right, with something evil in them.

Whatever is typed, the parser takes it or raises `ConfigErrors`, and what is rendered holds only words that clean
declarations make as well, beside names, interfaces, addresses and numbers.
"""

from __future__ import annotations

import copy
import random
import re
import shlex
from collections.abc import Iterator
from typing import Any

from _natlb.errors import ConfigErrors, NatlbError
from _natlb.iptables import render as iptables
from _natlb.iptables import restore
from _natlb.model.entities import Config, dump
from _natlb.model.services import parse_config
from _natlb.model.surroundings import Surroundings
from _natlb.nftables import render as nftables
from _natlb.nftables.text import full
from _natlb.plan import request

#: In every evil string, so that it is seen wherever it turns up.
CANARY = "zqx"
EVIL: tuple[Any, ...] = (
    f'{CANARY}"; flush ruleset; #',
    f'"{CANARY}',
    f"{CANARY}\n-A INPUT -j ACCEPT",
    f"{CANARY}\nCOMMIT\n*filter",
    f"{CANARY}}}\ntable ip evil {{",
    f"{CANARY} -j ACCEPT",
    f"--{CANARY}",
    f"-{CANARY}",
    f"$({CANARY})",
    f"`{CANARY}`",
    f"${{{CANARY}}}",
    f"{CANARY};reboot",
    f"{CANARY}|sh",
    f"{CANARY}&",
    f"{CANARY}>/etc/passwd",
    f"{CANARY}\\",
    f"{CANARY}'",
    f"{CANARY}\x00",
    f"{CANARY}\t",
    f"{CANARY}\r",
    f"{CANARY}\u2028",
    f"{CANARY}\u00e4\udc80",
    f"../../{CANARY}",
    f"%{CANARY}s",
    f"{{{{ {CANARY} }}}}",
    f"{CANARY}*",
    f"{CANARY}+",
    f"@{CANARY}",
    f"!{CANARY}",
    f"{CANARY}:{CANARY}",
    f"{CANARY}%eth0",
    CANARY,
    f"192.0.2.1;{CANARY}",
    f"192.0.2.1/24 {CANARY}",
    f"80,{CANARY}",
    "²",
    "١٢",
    "0x50",
    "08",
    "1e3",
    " 80 ",
    "80\n",
    "-1",
    "٨٠-٩٠",
    "::ffff:10.0.0.3",
    "fe80::1%lo",
    "192.0.2.010",
    "0300.0.2.1",
    "",
    " ",
    "x" * 5000,
    0,
    -1,
    1,
    65536,
    2**32,
    10**400,
    0.5,
    float("nan"),
    float("inf"),
    True,
    None,
    b"bytes",
    (),
    [],
    {},
    {"a": {"b": []}},
    [[[]]],
    {1: 2},
    {None: None},
    {"\n": "\n"},
    set(),
    object(),
    range(3),
)
METHODS = ("round_robin", "least_connections", "random", "source_hash", "flow_hash", "destination_hash")
NAMES = ("a", "web", "x-1", "w_w", "0")
LINKS = ("eth0", "front", "wg-1", "br_lan.if7", "eth0.100")


# -- declarations ------------------------------------------------------------------------------------------------------


def clean(rng: random.Random) -> dict[str, Any]:
    """A declaration that is right."""
    services = [_service(rng, index) for index in range(rng.randint(1, 3))]
    egress = [_egress(rng) for _unused in range(rng.choice((0, 0, 1)))]
    return {"services": services, "egress": egress}


def _service(rng: random.Random, index: int) -> dict[str, Any]:
    port = rng.randint(1, 60000)
    host = rng.choice((f"192.0.2.{10 + index}", f"[2001:db8::{10 + index}]"))
    last = f"-{port + rng.randint(1, 9)}" if rng.random() < 0.2 else ""
    six = host.startswith("[")
    addresses = rng.sample(range(3, 30), rng.randint(1, 2))
    found: dict[str, Any] = {
        "name": f"{NAMES[index]}{rng.randint(0, 9)}",
        "listen": [f"{host}:{port}{last}"],
        "backends": [{"address": f"2001:db8:2::{a}" if six else f"10.0.0.{a}", "name": f"b{a}"} for a in addresses],
    }
    more: dict[str, Any] = {
        "protocol": rng.sample(("tcp", "udp", "sctp"), rng.randint(1, 2)),
        "method": rng.choice(METHODS if rng.random() < 0.1 else METHODS[:3]),
        "affinity": "90s",
        "interface": rng.choice(LINKS),
        "snat": rng.choice(("none", "masquerade", "2001:db8::200" if six else "192.0.2.200")),
        "allow_from": ["2001:db8:18::/64" if six else "198.18.0.0/16"],
        "max_connections_per_client": 5,
        "new_connections_per_second": 7,
        "when_empty": rng.choice(("reject", "drop")),
        "log": True,
        "health": {"type": "http", "port": 80, "path": "/up", "host": "web.example", "interval": "2s"},
    }
    found.update((key, more[key]) for key in rng.sample(sorted(more), rng.randint(0, 3)))
    if rng.random() < 0.3:
        found["backends"][0].update(port=8080, weight=rng.randint(1, 4), state="active", backup=False)
    return found


def _egress(rng: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = {"source": ["10.0.0.0/24"]}
    if rng.random() < 0.4:
        found.update(protocol="tcp", destination_ports=[80, "8000-8010"])
    way = rng.choice(("any", "interface", "address", "uplinks"))
    if way == "interface":
        found["out_interface"] = rng.choice(LINKS)
    elif way == "address":
        found["snat"] = "192.0.2.2"
    elif way == "uplinks":
        found["uplinks"] = [{"interface": "up1", "gateway": "100.64.1.1", "weight": 2}]
    return found


def spoilt(rng: random.Random) -> dict[str, Any]:
    """A clean declaration with one to three of its places made evil."""
    found = clean(rng)
    for _unused in range(rng.choice((1, 1, 1, 2, 3))):
        _spoil(rng, found)
    return found


def _spoil(rng: random.Random, declared: dict[str, Any]) -> None:
    places = list(_places(declared))
    if not places:
        return
    holder, key = rng.choice(places)
    value, evil = holder[key], copy.deepcopy(rng.choice(EVIL))
    way = rng.randrange(6)
    if isinstance(value, str) and isinstance(evil, str) and way < 3:
        at = rng.randint(0, len(value))
        holder[key] = (value[:at] + evil + value[at:], value + evil, evil + value)[way]
    elif isinstance(holder, dict) and way == 3 and holder is not declared:
        del holder[key]
    elif isinstance(holder, dict) and way == 4 and holder is not declared:
        holder[evil if isinstance(evil, (str, int, float, tuple)) else str(evil)] = value
    elif isinstance(holder, list) and way == 5:
        holder.append(copy.deepcopy(value))
    else:
        holder[key] = evil


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of every value at any depth."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


# -- checks ------------------------------------------------------------------------------------------------------------

_WORD = re.compile(r"(?<!\w)[A-Za-z_][\w.@-]*")
_HEX = re.compile(r"(0x)?[0-9a-fA-F_]+")
_NFT_CHARACTERS = re.compile(r'[A-Za-z0-9 _.:,;{}()\[\]/@"!=&|+\-\n]*')
_IPTABLES_LINE = re.compile(r"\*\w+|COMMIT|:NATLB\.[\w.:/-]+ - \[0:0\]|-[AIDFX] [A-Za-z0-9 _.:,/@\"!\[\]\-]+")
#: Behind a name that is too long for a chain.
_DIGEST = re.compile(r"(?<=[\w.:])/[a-z2-7]{10}\b")
_RECENT = re.compile(r"natlb-([\w-]+?)-[a-z2-7]{10}")
_QUOTED = re.compile(r'"([^"]*)"')


def texts(config: Config) -> list[str]:
    """What the engines would load; an engine may refuse what it cannot do."""
    found = []
    try:
        found.append(full(nftables.render(config, Surroundings(["10.0.0.0/24"]))))
    except NatlbError:
        found.append("")
    for family in ("ip", "ip6"):
        try:
            found.append(restore.full(iptables.render(config, Surroundings(["10.0.0.0/24"])), family))
        except NatlbError:
            found.append("")
    return found


def words(text: str) -> set[str]:
    """What may mean something to nft or iptables."""
    plain = _DIGEST.sub(" ", _QUOTED.sub(" ", text))
    return set(_WORD.findall(plain)) | set(re.findall(r"(?<=\s)--?[\w-]+", text))


def _kind(word: str) -> str:
    """A word whatever its numbers and its protocol (`source_hash_251_tcp`), or the digest that stands for ours."""
    if re.fullmatch(r"natlb[a-z2-7]{10}", word):
        return "natlb"
    # A table of hash slots is named by the backends that it leads to.
    word = re.sub(r"\.[a-z2-7]{10}\b", ".digest", word)
    return re.sub(r"\d+", "0", re.sub("sctp|udp", "tcp", word))


def vocabulary(seed: int, draws: int = 1500) -> set[str]:
    """The words of clean declarations."""
    rng = random.Random(seed)
    found: set[str] = set()
    for turn in range(draws):
        declared = clean(rng)
        if turn % 50 == 0:
            declared["services"][0].update(backends=[], when_empty=("drop", "reject")[turn % 100 // 50])
        for text in texts(parse_config(**declared)):
            found |= set(map(_kind, words(text)))
    return found


def problem(declared: dict[str, Any], known: set[str]) -> str:
    """What is wrong with how a declaration was dealt with; empty where nothing is. `refused` is nothing wrong."""
    try:
        config = parse_config(**declared)
    except ConfigErrors as refused:
        return _complaint(refused)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    try:
        if request.declared(dump(config)) != config:
            return "what is kept of it reads otherwise"
        nft, *others = texts(config)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return _foreign(nft, others, config, known)


def _complaint(refused: ConfigErrors) -> str:
    for error in refused.errors:
        if not str(error).startswith(("services", "egress")) or not error.remedy or len(str(error)) > 600:
            return f"a poor message: {str(error)[:700]!r}"
        if any(ord(letter) < 32 for letter in str(error)):
            return f"a message with control characters: {error!r}"
    return ""


def _foreign(nft: str, others: list[str], config: Config, known: set[str]) -> str:
    named = {service.name for service in config.services}
    links = {service.interface for service in config.services} | {item.out_interface for item in config.egress}
    links |= {uplink.interface for uplink in config.uplinks()}
    if not _NFT_CHARACTERS.fullmatch(nft):
        return f"characters that no rule needs: {sorted(set(_NFT_CHARACTERS.sub('', nft)))}"
    for quoted in _QUOTED.findall(nft):
        if quoted not in links and quoted not in {f"natlb {name} " for name in named}:
            return f"a string that nobody declared: {quoted!r}"
    for text in others:
        for line in text.splitlines():
            if not _IPTABLES_LINE.fullmatch(line):
                return f"a line of another shape: {line!r}"
            shlex.split(line)
    everything = "\n".join((nft, *others))
    for link in sorted(filter(None, links), key=len, reverse=True):
        everything = re.sub(rf"(?<![\w.@-]){re.escape(link)}(?![\w.@-])", " ", everything)
    for word in words(everything):
        if _kind(word) not in known and not _HEX.fullmatch(word) and not _made_of(word, named):
            return f"a word that no clean declaration makes: {word!r}"
    return ""


def _made_of(word: str, named: set[str]) -> bool:
    """A chain or set of ours, whose name holds a declared one between dots, or one of xt_recent's lists."""
    recent = _RECENT.fullmatch(word)
    if recent:
        return any(name.startswith(recent[1]) for name in named)
    return bool({*word.split(".")} & named) or word.startswith("NATLB.")
