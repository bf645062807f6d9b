# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Some services change, and their rules are rendered without the others: the whole comes out the same."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import strategies
from _natlb.errors import NatlbError
from _natlb.iptables.engine import IptablesEngine
from _natlb.model.engine import Engine
from _natlb.model.entities import Config, Service
from _natlb.model.services import parse_config
from _natlb.nftables.engine import NftablesEngine
from _natlb.plan.known_services import KnownServices
from _natlb.ruleset.sections import unified
from hypothesis import given
from hypothesis import strategies as st

METHODS = ("round_robin", "least_connections", "random", "source_hash", "flow_hash", "destination_hash")


class NoProgram:
    """Nothing is run: steps are only looked at."""

    variant = "nft"


def engine(name: str) -> Engine:
    program: Any = NoProgram()
    return NftablesEngine(program) if name == "nftables" else IptablesEngine("nft", program)


def changed(service: Service, states: Sequence[str]) -> Service:
    found = [replace(item, state=states[n % len(states)]) for n, item in enumerate(service.backends)]
    return replace(service, backends=tuple(found))


def is_right_after(known: KnownServices, made: Engine, config: Config, services: Sequence[Service]) -> bool:
    """Whether the step could be made; the rules are those of the whole then."""
    step = known.step(services)
    if step is None:
        return False
    known.made(step)
    names = {service.name: service for service in services}
    whole = replace(config, services=tuple(names.get(item.name, item) for item in config.services))
    wanted = made.render(whole)
    assert known.rules == wanted, unified(known.rules, wanted)
    return True


@pytest.mark.parametrize("name", ["nftables", "iptables"])
@given(data=st.data())
def test_any_services_in_any_states(name: str, data: st.DataObject) -> None:
    made = engine(name)
    config = parse_config(data.draw(strategies.services(limited=name == "nftables")))
    try:
        known = KnownServices(made, config)
    except NatlbError:
        return  # more than iptables can mark
    for _turn in range(3):
        chosen = [service for service in config.services if data.draw(st.booleans())]
        states = st.lists(st.sampled_from(("active", "drained", "disabled")), min_size=1, max_size=4)
        after = [changed(service, data.draw(states)) for service in chosen]
        if not is_right_after(known, made, config, after):
            return
        names = {service.name: service for service in after}
        config = replace(config, services=tuple(names.get(item.name, item) for item in config.services))


def many(method: str, count: int = 150, different: int = 3, **keys: Any) -> Config:
    declared = [
        {
            "name": f"s{i}",
            "listen": f"198.18.{i // 250}.{i % 250 + 1}:80",
            "method": method,
            "backends": [{"address": f"10.0.{i % different}.{k + 3}", "port": 8080} for k in range(4)],
            **keys,
        }
        for i in range(count)
    ]
    return parse_config(declared)


@pytest.mark.parametrize("keys", [{}, {"allow_from": ["10.0.0.0/8"], "log": True}, {"affinity": 60}])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["nftables", "iptables"])
def test_one_backend_of_one_service_of_many_and_of_all_that_share_it(
    name: str, method: str, keys: dict[str, Any]
) -> None:
    made, config = engine(name), many(method, 12, **keys)
    known = KnownServices(made, config)
    for states in (["active", "drained"], ["active"], ["drained", "active", "disabled"], ["active"]):
        one = [changed(config.services[7], states)]
        assert is_right_after(known, made, config, one)
        assert is_right_after(known, made, config, config.services[7:8])
        shared = [changed(service, states) for service in config.services if service.backends[0].address == "10.0.0.3"]
        assert is_right_after(known, made, config, shared)
        back = [service for service in config.services if service.backends[0].address == "10.0.0.3"]
        assert is_right_after(known, made, config, back)


@pytest.mark.parametrize("different", [1, 3, 16])
def test_most_services_of_a_hash_table_take_its_name(different: int) -> None:
    made, config = engine("nftables"), many("source_hash", 16, different)
    known, now = KnownServices(made, config), list(config.services)
    for number in random.Random(1).sample(range(len(now)), 12):
        now[number] = changed(now[number], ["active", "active", "drained"])
        assert is_right_after(known, made, replace(config, services=tuple(now)), [now[number]])


@pytest.mark.parametrize("takeover", [True, False])
def test_chains_that_backups_need_later(takeover: bool) -> None:
    """A service that stops serving takes none along that another one is to lead to."""
    backends = [{"address": f"10.0.0.{k}", "port": 8080, "backup": k == 5} for k in (3, 4, 5)]
    keys = {"method": "source_hash", "snat": "none", "backends": backends, "takeover": None if takeover else False}
    declared = [{"name": f"s{i}", "listen": f"192.0.2.{i}:80", **keys} for i in range(1, 9)]
    config = parse_config([{key: value for key, value in item.items() if value is not None} for item in declared])
    made = engine("nftables")
    known = KnownServices(made, config)
    nobody = changed(config.services[0], ["disabled"])
    now = replace(config, services=(nobody, *config.services[1:]))
    assert is_right_after(known, made, now, [nobody])
    assert is_right_after(known, made, now, [changed(config.services[1], ["disabled", "disabled", "active"])])
    assert is_right_after(known, made, now, [config.services[1]])


def test_a_step_is_no_longer_than_what_changes() -> None:
    made, config = engine("nftables"), many("round_robin", count=2000)
    known = KnownServices(made, config)
    step = known.step([changed(config.services[1000], ["active", "drained", "active", "active"])])
    assert step is not None
    assert sum(map(len, step.transaction.texts.values())) < 800


ONE_LEFT = ["active", "drained", "drained", "drained"]


@pytest.mark.parametrize("name", ["nftables", "iptables"])
def test_a_service_that_redispatches(name: str) -> None:
    made, config = engine(name), many("round_robin", redispatch=True)
    known = KnownServices(made, config)
    one = config.services[7]
    assert is_right_after(known, made, config, [changed(one, ["active", "active", "active", "drained"])])
    assert is_right_after(known, made, config, [one])
    # With iptables it stands in a tree that all services share.
    assert is_right_after(known, made, config, [changed(one, ONE_LEFT)]) is (name == "nftables")
    assert is_right_after(known, made, config, [one])


def test_a_service_that_is_left_with_one_backend_redispatches_no_more() -> None:
    config = many("round_robin", redispatch=True)
    step = KnownServices(engine("nftables"), config).step([changed(config.services[7], ONE_LEFT)])
    assert step is not None
    assert "delete element ip natlb redispatch { 198.18.0.8 . 80 : goto redispatch_client }" in str(step.transaction)


def test_what_concerns_all_is_left_to_the_whole() -> None:
    """With iptables a service that nobody serves is led to elsewhere, in a tree that all services share."""
    made, config = engine("iptables"), many("round_robin")
    known = KnownServices(made, config)
    before = dict(known.rules)
    assert known.step([changed(config.services[7], ["drained"])]) is None
    assert known.rules == before


@pytest.mark.parametrize("name", ["nftables", "iptables"])
def test_services_that_overlap(name: str) -> None:
    """What others leave of the ranges of one is the same when some are rendered by themselves."""
    first, second = "192.0.2.1", "192.0.2.2"
    listens = ["*:80-90", "*:80", "*:82-84", f"{first}:80-90", f"{first}:82-84", f"{first}:83", *[f"{second}:80"] * 2]
    declared = [
        {
            "name": f"s{n}",
            "listen": listen,
            "backends": [f"10.0.0.{k + 3}:8080" for k in range(4)],
            "redispatch": n in (3, 5),
        }
        for n, listen in enumerate(listens)
    ]
    declared[6]["interface"] = "eth0"
    made, config = engine(name), parse_config(declared)
    known = KnownServices(made, config)
    for service in config.services:
        # With no backend left the dispatch leads elsewhere. For iptables that is another tree.
        for states in (["active", "drained", "active", "active"], *([["drained"]] if name == "nftables" else [])):
            assert is_right_after(known, made, config, [changed(service, states)])
            assert is_right_after(known, made, config, [service])


@pytest.mark.parametrize("port", [8080, None])
@pytest.mark.parametrize("name", ["nftables", "iptables"])
def test_services_that_are_taken_over(name: str, port: int | None) -> None:
    """Without a port of their own they share tables."""
    declared = [
        {
            "name": f"s{n}",
            "listen": f"192.0.2.1:{80 + n}",
            "method": "flow_hash",
            "snat": "none",
            "backends": [{"address": f"10.0.0.{k + 3}", **({"port": port + n} if port else {})} for k in range(4)],
        }
        for n in range(6)
    ]
    made, config = engine(name), parse_config(declared)
    known, now = KnownServices(made, config), list(config.services)
    for number, states in enumerate((["active", "drained"], ["drained", "active", "disabled"], ["active"])):
        now[number] = changed(now[number], states)
        assert is_right_after(known, made, replace(config, services=tuple(now)), [now[number]])
    back = replace(config, services=tuple(now))
    assert is_right_after(known, made, back, [changed(service, ["active", "drained"]) for service in now])


def test_services_that_have_ports_and_backends_in_common() -> None:
    """Elements that are not theirs alone are left to the whole."""
    made, steps = engine("nftables"), 0
    for seed in range(40):
        chance = random.Random(seed)
        config = parse_config(strategies.in_common(chance))
        known = KnownServices(made, config)
        for _turn in range(8):
            one = chance.choice(config.services)
            after = changed(one, chance.choice((["active"], ["active", "drained", "drained"], ["active", "drained"])))
            if is_right_after(known, made, config, [after]):
                steps += 1
            else:
                known = KnownServices(made, replace(config, services=_with(config, after)))
            config = replace(config, services=_with(config, after))
    assert steps > 160, "most are made by themselves"


def _with(config: Config, after: Service) -> tuple[Service, ...]:
    return tuple(after if item.name == after.name else item for item in config.services)


def test_a_set_of_intervals_that_does_not_change_holds_nothing_up() -> None:
    config = many("round_robin", 12, allow_from=["10.0.0.0/8"], deny_from=["10.1.0.0/16"], redispatch=True, snat="none")
    known = KnownServices(engine("nftables"), config)
    assert [key for key, section in known.rules.items() if key.kind == "set" and "flags interval" in section.header]
    assert is_right_after(known, engine("nftables"), config, [changed(config.services[7], ["active", "drained"])])
