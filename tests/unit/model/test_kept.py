# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The quick way back from a kept service leads to the same one."""

from __future__ import annotations

import json
from typing import Any

import pytest
import strategies
from _natlb.errors import ConfigErrors
from _natlb.model import kept
from _natlb.model.dumps import UNUSED, UNUSED_OF_BACKENDS
from _natlb.model.entities import dump
from _natlb.model.services import Known, parse_config
from hypothesis import given
from hypothesis import strategies as st

BACKENDS = [{"address": "10.0.0.3", "port": 8080}, {"address": "10.0.0.4", "weight": 3, "state": "drained"}]
CHECKS: list[dict[str, Any]] = [
    {"type": "tcp"},
    {"type": "tcp", "port": 81, "address": "10.0.0.9", "source": "10.0.0.1", "fail_open": True, "on_down": "reset"},
    {"type": "http", "interval": "500ms", "timeout": 0.25, "jitter": "100ms", "status": ["200-299", 404]},
    {"type": "https", "verify": True, "path": "/a%20b", "host": "example.com", "body": "ok"},
    {"type": "command", "argv": ["/bin/check", "a b"], "user": "daemon", "fast_interval": 1, "slow_start": "1m"},
    {"type": "agent", "port": 9000, "fall": 1, "rise": 5},
    {"type": "udp", "send": "hex:00ff", "expect": "pong"},
    {"type": "dns", "query": "www.example.com"},
]


def is_the_same(declared: list[Any], networks: Any = None) -> None:
    config = parse_config(declared, networks=networks)
    for service, item in zip(config.services, dump(config)["services"], strict=True):
        line = json.dumps(item)
        found = kept.service(json.loads(line), line, config.networks)
        assert found == service
        assert found.line == service.line == line


@given(st.data())
def test_any_service(data: st.DataObject) -> None:
    is_the_same(*data.draw(strategies.in_lists(data.draw(strategies.services()))))


@pytest.mark.parametrize("check", CHECKS)
def test_any_check(check: dict[str, Any]) -> None:
    is_the_same([{"name": "a", "listen": "192.0.2.10:80", "backends": BACKENDS, "health": check}])


@pytest.mark.parametrize(
    "listen",
    ["192.0.2.10:80", "[2001:db8::1]:53", "*:9", "192.0.2.11:1-65535", ["*:10-20", "[2001:db8::a]:1-2"]],
)
def test_any_frontend(listen: Any) -> None:
    is_the_same([{"name": "a", "listen": listen, "backends": []}])


@pytest.mark.parametrize(
    "allow", [None, "office", ["office", "198.51.100.0/24"], ["198.51.100.0/25", "198.51.100.128/25"]]
)
@pytest.mark.parametrize("deny", [None, "blocked", ["blocked", "office6"], "198.51.100.7"])
def test_any_list_of_networks(allow: Any, deny: Any) -> None:
    lists = {
        "office": ["203.0.113.0/25", "203.0.113.128/25", "2001:db8:7::/48"],
        "office6": ["2001:db8:9::/48"],
        "blocked": "203.0.113.9\n198.51.100.9 # lost\n",
    }
    keys = {key: value for key, value in (("allow_from", allow), ("deny_from", deny)) if value}
    pins = [{"client": "office", "backend": "10.0.0.4"}] if allow == "office" else []
    listen = "192.0.2.10:80"
    by_client = [{"networks": ["blocked", "192.0.2.7"], "snat": "none"}, {"networks": "office", "snat": "masquerade"}]
    more = {"snat_by_client": by_client, "pins": [{**pin, "client": "blocked"} for pin in pins]}
    is_the_same([{"name": "a", "listen": listen, "backends": BACKENDS, **keys, **more}], lists)


def test_an_earlier_version_reads_a_plain_service() -> None:
    """A reader drops a service that has a key which it does not know. So keys that come later are not there where a
    service does not use them; these are not to become more."""
    (service,) = dump(parse_config([{"name": "a", "listen": "192.0.2.10:80", "backends": ["10.0.0.3"]}]))["services"]
    assert service.keys() == {
        *("name", "listen", "protocol", "method", "snat", "when_denied", "when_empty", "redispatch", "backups"),
        "backends",
    }
    (backend,) = service["backends"]
    assert backend.keys() == {"address", "port", "name", "weight", "state"}


def test_what_is_not_used_is_what_a_declaration_without_the_key_means() -> None:
    declared = {"name": "a", "listen": "192.0.2.10:80", "backends": [{"address": "10.0.0.3", "backup": True}]}
    (plain,) = parse_config([declared]).services
    for key, value in UNUSED.items():
        assert kept.service({**json.loads(plain.line), key: value}, plain.line, {}) == plain, key
    for key, value in UNUSED_OF_BACKENDS.items():
        item = json.loads(plain.line)
        item["backends"][0].setdefault(key, value)
        assert kept.service(item, plain.line, {}) == plain, key


# -- what is known need not be read, and is checked all the same ------------------------------------------------------

PAIR = [{"name": name, "listen": f"192.0.2.{number}:80", "backends": BACKENDS} for number, name in enumerate("ab")]


def known(former: bool = True) -> Known:
    first, second = parse_config(PAIR).services
    return Known({0: first}, {1: second} if former else None)


def test_a_known_service_is_not_read() -> None:
    config = parse_config([{"nonsense": True}, PAIR[1]], known=known())
    assert config == parse_config(PAIR)


@pytest.mark.parametrize("former", [True, False])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"listen": "192.0.2.0:80"}, "both claim"),
        ({"name": "a"}, "is the name of"),
        ({"listen": ["192.0.2.1:80", "192.0.2.0:80"]}, "both claim"),
    ],
)
def test_a_changed_service_is_held_against_the_known_ones(change: dict[str, Any], said: str, former: bool) -> None:
    with pytest.raises(ConfigErrors, match=said):
        parse_config([PAIR[0], {**PAIR[1], **change}], known=known(former))
    drained = [{**backend, "state": "drained"} for backend in BACKENDS]
    changed = [PAIR[0], {**PAIR[1], "backends": drained}]
    assert parse_config(changed, known=known(former)) == parse_config(changed)


@pytest.mark.parametrize("former", [True, False])
def test_a_backend_that_tells_no_network_from_every_address_any_more(former: bool) -> None:
    """The kernel sees no other difference between the two when it translates the client's address."""
    wild = {"name": "a", "listen": "*:80", "snat": "none", "backends": ["10.0.0.9:8080"]}
    network = {"name": "b", "listen": "198.51.100.0/24:80", "backends": ["10.0.0.3:8080"]}
    first, second = parse_config([wild, network]).services
    changed = {**network, "backends": ["10.0.0.9:8080"]}
    with pytest.raises(ConfigErrors, match="snat"):
        parse_config([wild, changed], known=Known({0: first}, {1: second} if former else None))


def test_what_cannot_be_read_is_still_an_error() -> None:
    with pytest.raises(ConfigErrors, match=r"services\[1\].backends"):
        parse_config([PAIR[0], {"name": "b", "listen": "192.0.2.1:80"}], known=known())
