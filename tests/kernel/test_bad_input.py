# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What cannot be carried out is refused before anything is touched."""

from __future__ import annotations

from typing import Any

import pytest
from _natlb.errors import ConfigErrors, NatlbError
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.topology import VIP, WEB6

BAD: dict[str, tuple[Any, Any]] = {
    "port": ([service(backends=webs(port=99999))], []),
    "address": ([service(listen="192.0.2.300:80")], []),
    "family": ([service(backends=[{"address": WEB6["web1"]}])], []),
    "overlap": ([service(listen=f"{VIP}:79-81"), service("other", listen=f"{VIP}:80-82")], []),
    "name": ([service(), service(listen=f"{VIP}:81")], []),
    "weights": ([service(backends=webs(weight=0))], []),
    "key": ([service(backend=webs())], []),
    "type": ("web", []),
    "shell": ([service(interface="eth0; reboot")], []),
    "nft": ([service("a } drop")], []),
    "egress": ([service()], [{"source": "10.0.0.1/24"}]),
    "uplinks": ([service()], [{"source": "10.0.0.0/24", "uplinks": [{"interface": "up1", "gateway": "x"}]}]),
    "one of many": ([*(service(f"s{i}", listen=f"{VIP}:{i}") for i in range(1, 50)), service(method="best")], []),
}


@pytest.mark.parametrize("name", BAD)
def test_nothing_is_touched(balancer: Balancer, name: str) -> None:
    services, egress = BAD[name]
    _refused_on(balancer, services, egress)
    balancer.apply([service("good", listen=f"{VIP}:8080", backends=webs("web1"))])
    _refused_on(balancer, services, egress)
    assert balancer.tally(f"{VIP}:8080") == {"web1": 1}


def _refused_on(balancer: Balancer, services: Any, egress: list[Mapping]) -> None:
    before = balancer.snapshot()
    with pytest.raises(ConfigErrors) as caught:
        balancer.apply(services, egress)
    assert balancer.snapshot() == before
    text = str(caught.value)
    assert text.startswith(("services", "egress"))
    assert text.endswith(")"), "the remedy stands in parentheses"


def test_what_no_engine_can_render_changes_nothing(balancer: Balancer) -> None:
    """Found out after the declaration was read, and still before the host is touched."""
    balancer.apply([service("good", listen=f"{VIP}:8080", backends=webs("web1"))])
    before = balancer.snapshot()
    many = [service(f"s{i}", listen=f"{VIP}:{i}", interface=f"nowhere{i}") for i in range(1, 4)]
    with pytest.raises(NatlbError):
        balancer.apply([*many, service("broken", listen=f"{VIP}:9", backends=_too_many())])
    assert balancer.snapshot() == before


def _too_many() -> list[Mapping]:
    """Weights without a common divisor, and more slots than there may be."""
    return [{"address": f"10.7.{i // 200}.{i % 200 + 1}", "weight": 256 - i % 3} for i in range(300)]
