# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which services would take over the port by which a run came in."""

from __future__ import annotations

from typing import Any

import pytest
from _natlb.errors import ConfigError
from _natlb.host import proc, processes
from _natlb.model.services import parse_config
from _natlb.plan import guard
from _natlb.plan.balance import balance

CAME_IN = "SSH_CONNECTION=198.51.100.7 50000 192.0.2.2 22"
ENDPOINT = ("192.0.2.2", 22)
BACKENDS = [{"address": "10.0.0.3"}, {"address": "2001:db8:2::3"}]


@pytest.mark.parametrize(
    ("environment", "endpoints"),
    [
        ("", []),
        (CAME_IN, [ENDPOINT]),
        (f"HOME=/root\0{CAME_IN}\0TERM=dumb\0", [ENDPOINT]),
        (f"{CAME_IN}\0{CAME_IN}", [ENDPOINT]),
        ("SSH_CONNECTION=::ffff:198.51.100.7 50000 ::ffff:192.0.2.2 2222", [("192.0.2.2", 2222)]),
        ("SSH_CONNECTION=2001:db8:1::100 50000 2001:0db8:1:0::2 22", [("2001:db8:1::2", 22)]),
        ("SSH_CONNECTION=fe80::1%eth0 50000 fe80::2%eth0 22", [("fe80::2", 22)]),
        # sshd says so where it does not know: an inetd, a pipe
        ("SSH_CONNECTION=UNKNOWN 65535 UNKNOWN 65535", []),
        ("SSH_CONNECTION=", []),
        ("SSH_CONNECTION=a b c", []),
        ("SSH_CONNECTION=1 2 192.0.2.2 ssh", []),
        ("SSH_CONNECTION=1 2 192.0.2.2 22 5", []),
        ("SSH_CONNECTION=1 2 192.0.2.2 ²", []),
        ("NOT_SSH_CONNECTION=1 2 192.0.2.2 22", []),
        ("SSH_CONNECTION", []),
        ("\udcff\0=\0==", []),
    ],
)
def test_endpoints(environment: str, endpoints: list[guard.Endpoint]) -> None:
    assert guard.endpoints([environment]) == endpoints


def test_endpoints_of_all_parents() -> None:
    """sudo gives its child no SSH_CONNECTION; the shell above it has one."""
    other = CAME_IN.replace("192.0.2.2", "10.0.0.1")
    assert guard.endpoints(["PATH=/bin", CAME_IN, other, ""]) == [ENDPOINT, ("10.0.0.1", 22)]


def refused(listen: Any, endpoint: guard.Endpoint, **keys: Any) -> str:
    backends = [item for item in BACKENDS if (":" in str(item["address"])) in _families(listen)]
    config = parse_config([{"name": "web", "listen": listen, "backends": backends, **keys}])
    try:
        guard.check(config, [endpoint])
    except ConfigError as error:
        return str(error)
    return ""


def _families(listen: Any) -> set[bool]:
    found = {"[" in item for item in ([listen] if isinstance(listen, str) else listen) if "*" not in item}
    return found or {False, True}


@pytest.mark.parametrize(
    ("listen", "keys"),
    [
        ("192.0.2.2:22", {}),
        ("192.0.2.2:20-30", {}),
        ("192.0.2.2:22-23", {}),
        ("192.0.2.2:1-22", {}),
        ("*:22", {}),
        ("*:1-65535", {}),
        ("0.0.0.0/0:22", {}),
        ("192.0.2.0/24:20-30", {}),
        (["192.0.2.10:80", "192.0.2.2:22"], {}),
        ("192.0.2.2:22", {"protocol": ["udp", "tcp"]}),
        # By which interface the run came in is not known.
        ("192.0.2.2:22", {"interface": "eth9"}),
    ],
)
def test_claimed(listen: Any, keys: Any) -> None:
    message = refused(listen, ENDPOINT, **keys)
    assert message.startswith("services[0].listen: web would take over 192.0.2.2 port 22, by which this run manages")
    assert "allow_management_port: true" in message


@pytest.mark.parametrize(
    ("listen", "keys"),
    [
        ("192.0.2.2:23", {}),
        ("192.0.2.2:23-65535", {}),
        ("192.0.2.2:1-21", {}),
        ("192.0.2.10:22", {}),
        ("*:2222", {}),
        ("192.0.2.8/29:22", {}),
        ("[::/0]:22", {}),
        ("0.0.0.0/0:80", {}),
        ("[2001:db8:1::2]:22", {}),
        ("192.0.2.2:22", {"protocol": "udp"}),
        ("192.0.2.2:22", {"protocol": ["udp", "sctp"]}),
    ],
)
def test_not_claimed(listen: Any, keys: Any) -> None:
    assert refused(listen, ENDPOINT, **keys) == ""


@pytest.mark.parametrize("endpoint", [("2001:db8:1::2", 22), ("2001:db8:1::2", 8022)])
def test_ipv6(endpoint: guard.Endpoint) -> None:
    _address, port = endpoint
    assert refused(f"[2001:db8:1::2]:{port}", endpoint)
    assert refused(f"[2001:db8:1:0:0::2]:{port}", endpoint)
    assert refused(f"*:{port}", endpoint)
    assert not refused(f"[2001:db8:1::3]:{port}", endpoint)
    assert not refused(f"192.0.2.2:{port}", endpoint)


def test_of_two_services_the_right_one_is_named() -> None:
    services = [
        {"name": "fine", "listen": "192.0.2.2:80", "backends": BACKENDS[:1]},
        {"name": "bad", "listen": "192.0.2.2:22", "backends": BACKENDS[:1]},
    ]
    with pytest.raises(ConfigError, match=r"services\[1\]\.listen: bad would"):
        guard.check(parse_config(services), [ENDPOINT])


@pytest.mark.parametrize("endpoint", [("garbage", 22), ("", 22), ("UNKNOWN", 22)])
def test_an_address_that_is_none_is_nobodys(endpoint: guard.Endpoint) -> None:
    assert refused("192.0.2.2:22", endpoint) == ""


def test_it_comes_before_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """No program is run, and no file is read, for a service that is refused."""
    monkeypatch.setattr(proc, "parent_environments", lambda: [CAME_IN])
    monkeypatch.setattr(processes, "run", None)
    services = [{"name": "web", "listen": "192.0.2.2:22", "backends": BACKENDS[:1]}]
    with pytest.raises(ConfigError, match="would take over"):
        balance(services)


def test_the_service_that_would_take_it_is_named() -> None:
    """Of several that overlap the most specific one."""
    listens = {"everywhere": "*:1-65535", "here": "192.0.2.2:22", "elsewhere": "192.0.2.3:22"}
    for order in (list(listens), list(reversed(listens))):
        config = parse_config([{"name": name, "listen": listens[name], "backends": BACKENDS[:1]} for name in order])
        with pytest.raises(ConfigError, match=r"here would take over 192\.0\.2\.2 port 22"):
            guard.check(config, [ENDPOINT])
