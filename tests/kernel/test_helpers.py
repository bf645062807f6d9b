# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocols that agree on further connections, by a helper: these find the same backend, whichever end opens them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from _natlb.errors import NatlbError
from kernel_lab import helped
from kernel_lab.balancer import Balancer, Mapping, service
from kernel_lab.topology import BACK, BACK6, CLIENT, VIP, VIP6, WEB, WEB6

nftables = pytest.mark.engines("nftables")
SERVERS = ("web1", "web2")


@pytest.fixture
def served(balancer: Balancer) -> Iterator[Balancer]:
    """A balancer whose backends speak these protocols."""
    for name in SERVERS:
        balancer.lab.backends[name].call(helped.start, name, WEB[name])
    yield balancer
    for name in SERVERS:
        balancer.lab.backends[name].call(helped.stop)


def ftp(**keys: object) -> Mapping:
    backends = [{"address": WEB[name], "port": helped.FTP_PORT} for name in SERVERS]
    backends += [{"address": WEB6[name], "port": helped.FTP_PORT} for name in SERVERS]
    return service(**{"listen": [f"{VIP}:21", f"[{VIP6}]:21"], "backends": backends, "helper": "ftp", **keys})


@nftables
@pytest.mark.parametrize("snat", ["masquerade", "none", "10.0.0.200"])
def test_ftp(served: Balancer, snat: str) -> None:
    """The second connection is one with the same backend, and both ends know each other as on the first one."""
    served.host.ip("address add 10.0.0.200/32 dev back")
    keys = {"snat": [snat, BACK6]} if snat == "10.0.0.200" else {"snat": snat}
    assert served.apply([ftp(**keys)]).changed
    for target, vip, commands in (
        (f"{VIP}:21", VIP, ("PASV", "EPSV", "PORT", "EPRT")),
        (f"[{VIP6}]:21", VIP6, ("EPSV", "EPRT")),
    ):
        for command in commands:
            found = [served.client.call(helped.fetch, target, command) for _turn in range(2)]
            assert {one.control for one in found} == {*SERVERS}, command
            assert [(one.data, one.address) for one in found] == [(one.control, vip) for one in found], command
    here = served.host.call(helped.fetch, f"{VIP}:21", "PASV")
    assert (here.data, here.address) == (here.control, VIP), "a client on the balancer itself"


def tftp(**keys: object) -> Mapping:
    backends = [{"address": WEB[name], "port": helped.TFTP_PORT} for name in SERVERS]
    return service("files", **{"listen": f"{VIP}:69", "protocol": "udp", "backends": backends, **keys})


@nftables
@pytest.mark.parametrize("snat", ["masquerade", "none"])
def test_tftp_comes_and_goes(served: Balancer, snat: str) -> None:
    """The answer comes from a port of its own. Without the helper nobody knows what it is an answer to."""
    other = service()
    served.apply([tftp(snat=snat), other])
    before = served.snapshot()
    with pytest.raises(TimeoutError):
        served.client.call(helped.read_file, f"{VIP}:69", 0.3)
    assert served.apply([tftp(snat=snat, helper="tftp"), other], check=True).changed
    assert served.snapshot() == before
    assert served.apply([tftp(snat=snat, helper="tftp"), other]).transaction == "delta"
    found = [served.client.call(helped.read_file, f"{VIP}:69") for _turn in range(2)]
    assert {(name, address) for name, address, _port in found} == {(name, VIP) for name in SERVERS}
    assert not {port for _name, _address, port in found} & {69, helped.TFTP_PORT}
    again = served.apply([tftp(snat=snat, helper="tftp"), other])
    assert (again.changed, again.diff) == (False, "")
    assert not served.info()["drift"]
    assert served.apply([tftp(snat=snat), other]).transaction == "delta"
    assert "ct helper" not in "".join(served.snapshot().values())
    served.apply([tftp(snat=snat, helper="tftp")])
    served.remove()
    assert not served.ours_left()


@nftables
def test_sip(served: Balancer) -> None:
    """Each end reads its own addresses."""
    backends = [{"address": WEB["web1"], "port": helped.SIP_PORT}]
    served.apply([service(listen=f"{VIP}:5060", protocol=["tcp", "udp"], backends=backends, helper="sip")])
    arrived = served.client.call(helped.options, f"{VIP}:5060", CLIENT)
    assert arrived.startswith(f"OPTIONS sip:web@{WEB['web1']}:{helped.SIP_PORT} SIP/2.0\r\nVia: SIP/2.0/UDP {BACK}:")
    assert f"To: <sip:web@{WEB['web1']}:{helped.SIP_PORT}>" in arrived


@pytest.mark.engines("iptables-nft", "iptables-legacy")
def test_iptables_has_none(balancer: Balancer) -> None:
    """It says so before anything is changed."""
    balancer.apply([service()])
    before = balancer.snapshot()
    with pytest.raises(NatlbError) as caught:
        balancer.apply([service(), tftp(helper="tftp")])
    assert str(caught.value).startswith("services[1].helper: the iptables engine cannot do it: ")
    assert str(caught.value).endswith("(use engine: nftables)")
    assert balancer.snapshot() == before
