# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services that several teams write in variables of their own, deployed to balancers that are network namespaces."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))


from playbook_site import VIP, Site

pytestmark = pytest.mark.skipif(
    bool(os.geteuid()) or shutil.which("nft") is None, reason="needs root, network namespaces and nft"
)
#: The backends of both are whoever is in the group.
GROUP = "{{ groups.web | natlb.netfilter.to_backends(hostvars, port=%d) }}"
WEB = {"name": "web", "listen": f"{VIP}:80", "backends": GROUP % 8080}
DB = {"name": "db", "listen": f"{VIP}:5432", "backends": GROUP % 5432}
SSH = {"name": "ssh", "listen": f"{VIP}:22", "backends": [{"address": "10.77.1.4"}]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"), webs=3)
    try:
        yield site
    finally:
        site.close()


@pytest.fixture
def site(made: Site) -> Site:
    made.own.clear()
    made.variables = {"natlb_manage_packages": False, "natlb_persist": False, "natlb_engine": "nftables"}
    # Nobody serves at the backends.
    made.variables["natlb_verify_each"] = False
    return made


def balanced(site: Site) -> dict[str, dict[str, list[str]]]:
    """By balancer, what it keeps of the declaration: the services in their order with the names of their backends."""
    kept = {member.name: json.loads(member.run("cat", "/run/natlb/state.json")) for member in (site.lb1, site.lb2)}
    return {
        host: {service["name"]: [backend["name"] for backend in service["backends"]] for service in told["services"]}
        for host, told in kept.items()
    }


def test_each_team_has_a_variable_and_each_host_of_the_inventory_a_place(site: Site) -> None:
    site.variables.update(natlb_services=[SSH], natlb_services_web=[WEB], natlb_services_db=[DB])
    site.variables.update(natlb_egress_office=[{"source": "10.0.0.0/24"}])
    status, printed = site.playbook("deploy")
    assert status == 0, printed
    webs = ["web1", "web2", "web3"]
    found = balanced(site)
    assert found == {name: {"ssh": ["10.77.1.4"], "db": webs, "web": webs} for name in ("lb1", "lb2")}
    assert list(found["lb1"]) == list(found["lb2"]) == ["ssh", "db", "web"], "in the order of their variables"
    assert "10.0.0.0/24" in site.lb2.state()
    status, printed = site.playbook("deploy", "--limit", "lb2")
    assert "changed=0" in printed.replace(" ", ""), printed
    # A team comes, another one goes, and so does a host.
    site.variables["natlb_services_mail"] = [{**SSH, "name": "mail", "listen": f"{VIP}:25"}]
    status, printed = site.playbook("verify", "-e", "natlb_verify_connections=1", "--limit", "lb2")
    assert status == 2
    assert "lb2: mail: declared, but not on this host; run natlb.netfilter.deploy" in printed, printed
    for name in ("natlb_services_mail", "natlb_services_db"):
        del site.variables[name]
    gone = site.members.pop()
    try:
        status, printed = site.playbook("deploy")
    finally:
        site.members.append(gone)
    assert status == 0, printed
    assert balanced(site) == {name: {"ssh": ["10.77.1.4"], "web": webs[:2]} for name in ("lb1", "lb2")}
    for balancer in (site.lb1, site.lb2):
        assert gone.address not in balancer.state()


#: Of each balancer, what it has beside the service web, and what is wrong with that.
CLAIMED_TWICE = {
    "lb1": (
        {"natlb_services_db": [SSH, {**WEB, "listen": f"{VIP}:81"}]},
        "natlb_services_web[0].name: web is the name of natlb_services_db[1] already",
    ),
    "lb2": (
        {"natlb_services_db": [SSH, {**DB, "listen": f"{VIP}:80"}]},
        f"natlb_services_web[0].listen: web and db (natlb_services_db[1]) both claim tcp {VIP}:80",
    ),
}


def refused(site: Site, *complaints: str) -> None:
    before = site.lb1.state()
    status, printed = site.playbook("deploy")
    assert status == 2
    for complaint in complaints:
        assert complaint in printed
    assert site.lb1.state() == before


def test_two_teams_that_claim_the_same(site: Site) -> None:
    site.variables["natlb_services_web"] = [WEB]
    site.own = {host: variables for host, (variables, _complaint) in CLAIMED_TWICE.items()}
    refused(site, *(complaint for _variables, complaint in CLAIMED_TWICE.values()))


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"natlb_servcies_db": [DB]}, "natlb_servcies_db: no role or playbook knows this variable (did you mean "),
        ({"natlb_services_db": "{{ [] }}"}, "natlb_services_db: the template '{{ [] }}' gives an empty list"),
    ],
    ids=["unknown", "empty"],
)
def test_a_part_that_is_not_meant(site: Site, variables: dict[str, Any], complaint: str) -> None:
    site.variables.update({"natlb_services_web": [WEB]}, **variables)
    refused(site, complaint)


def test_what_only_the_host_can_tell_names_the_variable_too(site: Site) -> None:
    """The module was given one list, and rules are rendered there."""
    limited = {**DB, "listen": [DB["listen"], "*:5433"], "mark": "0x3f000000"}
    site.variables.update(natlb_services_a=[SSH], natlb_services_b=[limited], natlb_engine="iptables")
    status, printed = site.playbook("deploy", "--limit", "lb1")
    assert status == 2
    assert "natlb_services_b[0].mark: 0x3f000000/0xffffffff has bits of mark_mask" in printed, printed
