# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Refusals that iptables holds back, so that the client's next SYN takes another backend; see `model/redispatch.py`.

filter  INPUT, FORWARD, OUTPUT → NATLB.refuse → NATLB..r → tree by original port and address → NATLB..tried
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..model import redispatch
from ..model.entities import Frontend, Service
from .dispatch import chain_name
from .origin import add_trees, behind_backends
from .service import CLIENTS, Tables

ROOT = chain_name("", "r")
#: A RST that answers a SYN; one that ends a connection in another way has not both flags, or the connection is assured.
_RESET = "-p tcp -m tcp --tcp-flags SYN,RST,ACK RST,ACK"
#: What ends an attempt as a RST does: nobody answers for the backend on its network.
_UNREACHABLE = {
    "ip": "-p icmp -m icmp --icmp-type host-unreachable",
    "ip6": "-p ipv6-icmp -m icmp6 --icmpv6-type address-unreachable",
}
_OPENING = "-m conntrack --ctstate DNAT --ctproto tcp ! --ctstatus ASSURED --ctdir REPLY"


def add_redispatch(
    tables: Tables, services: Sequence[Service], spared: Collection[Frontend]
) -> tuple[list[str], list[str]]:
    """The chains that hold refusals back; returns the rules that lead there, none where no service redispatches: those
    for packets of a connection, and those for what is related to one.

    Those of `spared` frontends pass, where their own service does not hold them back.
    """
    declared = redispatch.redispatching(services)
    found = [service for service in declared if redispatch.has_choice(service, tables.family)]
    if not found:
        return [], []
    names = {service.name for service in found}
    others = [service for service in services if service.name not in names] if spared else []
    to_client = f"-g {_add_client(tables)}"

    def action(service: Service, frontend: Frontend) -> str | None:
        if service.name in names:
            return behind_backends(tables, "r", service, frontend, to_client)
        return "-j ACCEPT" if frontend in spared else None

    roots = add_trees(tables, "filter", "r", [*found, *others], action, above=3)
    # What this host sends to itself has met these rules in OUTPUT, where it has no interface that it came in by.
    tables.chains["filter", ROOT] = ["-i lo -j RETURN", *(f"-j {root}" for _protocol, root in roots)]
    return [f"{_RESET} {_OPENING} -j {ROOT}"], [f"{_UNREACHABLE[tables.family]} {_OPENING} -j {ROOT}"]


def _add_client(tables: Tables) -> str:
    """What becomes of a refusal: it is dropped in the first seconds of the attempt, and passes later.

    Each list of xt_hashlimit holds one token for a client, which comes back after a time and is not taken where it is
    not there. So of the first list a token says that an attempt begins; of the second, that its time is over. Of ICMP
    the lists know the client's address and no port.
    """
    begins, tried = chain_name("", "trying"), chain_name("", "tried")
    begun = _once("trying", "upto", redispatch.LIVES_S)
    # At the first refusal both tokens are taken, whether or not the second one was there.
    tables.chains["filter", begins] = [f"{begun} -j DROP", "-j DROP"]
    # What passes meets no other tree: the token would be gone there.
    tables.chains["filter", tried] = [
        f"{_once('tried', 'upto', redispatch.REMEMBERED_S)} -g {begins}",
        f"{_once('trying', 'above', redispatch.LIVES_S)} -j DROP",
        "-j ACCEPT",
    ]
    return tried


def _once(name: str, which: str, seconds: int) -> str:
    """Whether a client's token is there (`upto`), or not (`above`). A list that exists keeps its rate, so its name
    tells it."""
    rate = f"--hashlimit-{which} {60 // seconds}/min --hashlimit-burst 1 --hashlimit-mode dstip,dstport"
    room = f"--hashlimit-htable-size {CLIENTS // 32} --hashlimit-htable-max {CLIENTS}"
    return f"-m hashlimit {rate} --hashlimit-name natlb-{name}-{seconds} {room} --hashlimit-htable-expire {seconds}000"
