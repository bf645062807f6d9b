# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes under load: while one run follows the other, no new connection fails and no old one is cut."""

from __future__ import annotations

import os
import random
import time

import pytest
from kernel_lab import generations, traffic
from kernel_lab.balancer import Balancer, Mapping, service, webs, weighted
from kernel_lab.topology import NAMES, OTHER_VIP, VIP, VIP6, WEB6

#: Enough for several packets to be under way in the very moment of a change: without what prevents it, about two in a
#: thousand changes lose one.
FLIPS = 400
#: Two hundred with `make drills`. Sixty are red as well where each of them is made in two steps.
APPLIES = 200 if os.environ.get("NATLB_DRILLS") == "full" else 60
LIMIT_S = 120
METHODS = ("round_robin", "random", "source_hash")


def declaration(chance: random.Random) -> list[Mapping]:
    """Two services that stay, with changing backends, weights and methods, among others that come and go."""
    weights = {name: chance.choice((0, 1, 1, 2, 5)) for name in NAMES} | {chance.choice(NAMES): 1}
    staying = chance.sample(NAMES, chance.randint(1, 4))
    others = [
        service("limited", listen=f"{VIP}:81", max_connections_per_client=3, allow_from=["198.18.0.0/16"]),
        service("sticky", listen=f"{VIP}:82", affinity=60),
        service("six", listen=f"[{VIP6}]:80", backends=[{"address": address} for address in WEB6.values()]),
        service("range", listen=f"{VIP}:9000-9003", protocol=["tcp", "udp"]),
        service("empty", listen=f"{VIP}:83", backends=[]),
    ]
    steady = [
        service(method=chance.choice(METHODS), backends=weighted(**weights)),
        service("other", listen=f"{OTHER_VIP}:80", snat="none", backends=webs(*staying)),
    ]
    return steady + chance.sample(others, chance.randint(0, len(others)))


@pytest.mark.slow
def test_many_applies_under_load(balancer: Balancer) -> None:
    chance = random.Random(7)
    balancer.apply([service(), service("other", listen=f"{OTHER_VIP}:80", snat="none")])
    load = balancer.client.begin(traffic.hammer, [f"{VIP}:80", f"{OTHER_VIP}:80"], limit_s=LIMIT_S)
    balancer.client.call(traffic.hammering)
    began = time.monotonic()
    outcomes = [balancer.apply(declaration(chance)) for _unused in range(APPLIES)]
    took_s = time.monotonic() - began
    balancer.client.call(traffic.halt)
    seen = traffic.Hammered(*load.result(LIMIT_S))
    changed = sum(outcome.changed for outcome in outcomes)
    failed = {who: count for who, count in seen.answers.items() if who not in NAMES}
    print(
        f"{balancer.engine} {balancer.variant}: {APPLIES} applies ({changed} changes) in {took_s:.1f} s; "
        f"{sum(seen.answers.values())} connections, {sum(failed.values())} failed, {seen.late} late; "
        f"{seen.kept} kept open, {seen.messages} messages on them, {sum(seen.cut.values())} cut"
    )
    assert changed > APPLIES * 0.9
    assert not failed
    assert not seen.late, "a packet that falls between two generations of rules comes again, a second later"
    assert not seen.cut
    assert sum(seen.answers.values()) > APPLIES
    assert seen.messages > seen.kept * 5, "every one of them was used again and again"


#: With a hash a change is five hundred elements, and its table goes, so that packets look at one that is being emptied.
FLIPS_OF_HASH = 200
KINDS: dict[str, Mapping] = {
    "slots": {},
    "shared": {"method": "random"},
    "hash": {"method": "source_hash"},
    "range": {"listen": f"{VIP}:80-81"},
}


@pytest.mark.slow
@pytest.mark.engines("nftables")
@pytest.mark.parametrize("kind", KINDS)
def test_no_packet_falls_between_two_generations(balancer: Balancer, kind: str) -> None:
    """A packet that began with the old rules may look up the new elements: the kernel switches these at once."""
    many, one = [service(**KINDS[kind])], [service(backends=webs("web1"), **KINDS[kind])]
    balancer.apply(many)
    load = [
        balancer.client.begin(traffic.hammer, [f"{VIP}:80"], limit_s=LIMIT_S, keep=0, breath_s=0, source=source)
        for source in ("198.18.0.1", "198.18.0.2")
    ]
    balancer.client.call(traffic.hammering)
    wanted = FLIPS_OF_HASH if kind == "hash" else FLIPS
    flips, untranslated = balancer.host.call(generations.flip, many, one, wanted, LIMIT_S / 2, VIP, within_s=LIMIT_S)
    balancer.client.call(traffic.halt)
    seen = [traffic.Hammered(*each.result(LIMIT_S)) for each in load]
    answers = seen[0].answers + seen[1].answers
    failed = {who: count for who, count in answers.items() if who not in NAMES}
    print(f"{kind}: {flips} changes, {sum(answers.values())} connections, {untranslated} not translated, {failed}")
    assert flips == wanted
    assert not untranslated
    assert not failed
