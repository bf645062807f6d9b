# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Balancers as `balancer_info` returns them: a fleet in which much is broken, and one as large as asked for."""

from __future__ import annotations

from typing import Any

DOWN_SINCE = "2026-11-26T01:12:07Z"


def backend(name: str, address: str, port: int | None = 8080, share: float = 0.0, **more: Any) -> dict[str, Any]:
    found = {
        "name": name,
        "address": address,
        "port": port,
        "shift": 0,
        "weight": 1,
        "state": "active",
        "backup": False,
        "max_connections": 0,
        "mark": None,
        "declared": {"weight": 1, "state": "active"},
        "override": None,
        "health": "up",
        "health_since": "2026-11-20T08:00:00Z",
        "health_reason": "",
        "health_history": [],
        "because": "declared",
        "why": "",
        "expected_share": share,
        "new_connections": 0,
        "active_connections": 0,
    }
    return {**found, **more}


def down(reason: str, since: str = DOWN_SINCE) -> dict[str, Any]:
    return {
        "health": "down",
        "health_since": since,
        "health_reason": reason,
        "health_history": past(("down", since, reason)),
        "because": "health",
        "why": f"down since {since}: {reason}",
    }


def past(*changes: tuple[str, str, str]) -> list[dict[str, str]]:
    """(state, since, reason), the oldest first."""
    return [dict(zip(("state", "since", "reason"), change, strict=True)) for change in changes]


def drained(since: str, reason: str) -> dict[str, Any]:
    return {
        "state": "drained",
        "override": {"state": "drained", "weight": None, "since": since, "reason": reason},
        "because": "override",
        "why": f"drained since {since}: {reason}",
    }


def service(name: str, listen: str | list[str], backends: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "listen": [listen] if isinstance(listen, str) else listen,
        "protocol": ["tcp"],
        "method": "round_robin",
        "affinity": 0,
        "pins": 0,
        "health": "http",
        "redispatch": True,
        "takeover": False,
        "takeover_reason": None,
        "mark": None,
        "min_healthy": [],
        "interface": None,
        "restricted": False,
        "max_connections_per_client": 0,
        "new_connections_per_second": 0,
        "snat_connections": None,
        "snat_elsewhere": [],
        "known_clients": {
            "affinity": None,
            "max_connections_per_client": None,
            "new_connections_per_second": None,
        },
        "backends": backends,
        **more,
    }


def info(services: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "engine": "nftables",
        "forwarding": True,
        "forwards_transit": False,
        "drift": False,
        "agent": True,
        "remarks": [],
        "warnings": [],
        "egress": [],
        "generation": 4711,
        "conntrack": {"count": 8120, "max": 262144, "drop": 0, "early_drop": 0, "insert_failed": 3},
        "services": services,
        **more,
    }


def broken() -> dict[str, Any]:
    """A pair, of which one differs, a third balancer for DNS, and one that is not reached."""
    reason = "connect to 10.0.0.4:8080: Connection refused"
    refused = down(reason)
    late = "connect to 10.0.0.4:8080: no answer in 1 s"
    refused["health_history"] = past(
        ("down", "2026-11-25T21:30:10Z", late),
        ("up", "2026-11-25T21:52:40Z", "it accepts connections, 2 of 2"),
        ("down", "2026-11-26T00:40:02Z", reason),
        ("up", "2026-11-26T00:55:31Z", "it accepts connections, 2 of 2"),
        ("down", DOWN_SINCE, reason),
    )

    def pair(numbers: tuple[int, ...], blind: bool) -> list[dict[str, Any]]:
        web = [
            backend("web1", "10.0.0.3", share=0.75 if not blind else 0.5, new_connections=numbers[0], weight=3),
            backend("web2", "10.0.0.4", new_connections=numbers[1], **refused),
            backend(
                *("web3", "10.0.0.5"),
                share=0.25 if not blind else 0.5,
                new_connections=numbers[2],
                active_connections=31,
            ),
        ]
        web[0]["active_connections"], web[0]["weight"] = 94, 3 if not blind else 1
        web[0]["declared"] = {"weight": web[0]["weight"], "state": "active"}
        silent = {"since": "2026-11-26T02:40:51Z", "reason": "http 10.0.1.2:9000/ready: no answer in 1 s"}
        lost = down("http 10.0.1.3:9000/ready: status 503", "2026-11-26T02:41:00Z")
        api = [
            backend("api1", "10.0.1.2", 9000, **down(silent["reason"], silent["since"])),
            backend("api2", "10.0.1.3", 9000, **lost),
        ]
        mail = [
            backend("mx1", "10.0.2.2", 25, share=1.0, new_connections=numbers[3], active_connections=4),
            backend(
                *("mx2", "10.0.2.3", 25),
                new_connections=11,
                **drained("2026-11-25T22:00:00Z", "kernel update, ask Kim"),
            ),
        ]
        return [
            service("web", ["192.0.2.10:80", "192.0.2.10:443"], web),
            service("api", "192.0.2.11:443", api, method="source_hash"),
            service("mail", "192.0.2.12:25", mail, method="least_connections", redispatch=False),
        ]

    full = (
        "connection tracking is 84 % full (220201 of 262144 entries); new connections are dropped when it is full "
        "(raise natlb_conntrack.max)"
    )
    empty = "service api: no backend can serve, so its clients are refused (restore a backend, or add one)"
    names = [
        backend(f"ns{number}", f"2001:db8:1::{number}", 53, share=0.5, new_connections=count)
        for number, count in ((1, 50210), (2, 49877))
    ]
    return {
        "lb1": info(pair((30412, 811, 10099, 640), False), remarks=[empty]),
        "lb2": info(
            pair((9120, 790, 9087, 655), True),
            drift=True,
            remarks=[empty, full],
            conntrack={"count": 220201, "max": 262144, "drop": 0, "early_drop": 17, "insert_failed": 5},
        ),
        "lb3": info([service("dns", "[2001:db8::53]:53", names, protocol=["udp", "tcp"], method="flow_hash")]),
        "lb4": {"unreachable": True, "msg": "Failed to connect to the host via ssh: No route to host\n"},
    }


def healthy() -> dict[str, Any]:
    """A pair on which all is well. A backend was down in the night, and came back by itself."""

    def of(first: int, second: int) -> dict[str, Any]:
        web = [
            backend("web1", "10.0.0.3", share=0.5, new_connections=first, active_connections=12),
            backend(
                *("web2", "10.0.0.4"),
                share=0.5,
                new_connections=second,
                active_connections=11,
                health_since="2026-11-26T01:14:39Z",
                health_history=past(
                    ("down", "2026-11-26T01:12:07Z", "connect to 10.0.0.4:8080: Connection refused, 3 of 3"),
                    ("up", "2026-11-26T01:14:39Z", "it accepts connections, 2 of 2"),
                ),
            ),
        ]
        names = [
            backend(f"ns{number}", f"10.0.3.{number}", 53, share=0.5, new_connections=count)
            for number, count in ((1, 7204), (2, 7138))
        ]
        return info(
            [
                service("web", "192.0.2.10:80", web),
                service("dns", "192.0.2.53:53", names, protocol=["udp", "tcp"], method="flow_hash"),
            ]
        )

    return {"lb1": of(20411, 20320), "lb2": of(20105, 20011)}


def large(services: int = 1000, balancers: int = 2) -> dict[str, Any]:
    """All is well but for one backend."""
    found: dict[str, Any] = {}
    for host in range(balancers):
        every = [
            service(
                f"service-{number}",
                f"192.0.2.{number % 250}:{8000 + number}",
                [
                    backend(f"node{at}", f"10.{number >> 8}.{number & 255}.{at + 1}", share=0.25, new_connections=100)
                    for at in range(4)
                ],
            )
            for number in range(services)
        ]
        every[services // 2]["backends"][1].update(down("connect to 10.1.244.2:8080: Connection refused"))
        found[f"lb{host + 1}"] = info(every)
    return found
