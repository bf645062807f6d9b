"""What must be true on the balancer after a scenario, looked up on the host itself.

Run by shared/verify.yml; the scenario's vars.yml says what to expect.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

import pytest
import testinfra
import yaml

SCENARIO = pathlib.Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
VARS: dict[str, Any] = yaml.safe_load((SCENARIO / "vars.yml").read_text())
LAB: dict[str, Any] = VARS["lab"]

# What is loaded after the scenario; after a removal there is none.
ENGINE = "none" if LAB.get("removed") else VARS["natlb_engine"]
FAMILY = LAB.get("family", "ip")
FAMILIES = LAB.get("families", [FAMILY])
#: In tenths, as systemd-analyze takes it: below 3.0 of 10.
EXPOSURE_AT_MOST = 29

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def balancer() -> Any:
    return testinfra.get_host("podman://natlb-balancer")


@pytest.mark.parametrize("folder", ["/run", "/tmp"])
def test_the_balancer_executes_nothing_from(balancer: Any, folder: str) -> None:
    """As real hosts mount them: or these tests would not see what such hosts refuse."""
    assert set(balancer.mount_point(folder).options) >= {"noexec", "nosuid", "nodev"}


def test_rules_are_in_the_engine_that_was_asked_for(balancer: Any) -> None:
    tables = balancer.check_output("nft list tables").splitlines()
    assert (f"table {FAMILY} natlb" in tables) == (ENGINE == "nftables")


def test_chains_are_in_iptables_only_with_that_engine(balancer: Any) -> None:
    save = "ip6tables-save" if FAMILY == "ip6" else "iptables-save"
    assert (":NATLB" in balancer.check_output(save)) == (ENGINE == "iptables")


def test_the_other_variant_of_iptables_stays_empty(balancer: Any) -> None:
    assert "NATLB" not in balancer.check_output("iptables-legacy-save; ip6tables-legacy-save")


def test_forwarding_is_on_for_the_families_in_use_only(balancer: Any) -> None:
    if ENGINE == "none":
        pytest.skip("a removal leaves forwarding as it is: others may depend on it")
    forwarding = {
        "ip": balancer.sysctl("net.ipv4.ip_forward"),
        "ip6": balancer.sysctl("net.ipv6.conf.all.forwarding"),
    }
    assert forwarding == {family: int(family in FAMILIES) for family in forwarding}


def test_the_unit_puts_the_rules_back_at_boot(balancer: Any) -> None:
    assert balancer.service("natlb").is_enabled == (ENGINE != "none")


@pytest.mark.parametrize("name", ["balancer", *LAB.get("converged_backends", [])])
def test_units_are_locked_into_what_they_need(name: str) -> None:
    host = testinfra.get_host(f"podman://natlb-{name}")
    units = host.check_output("find /etc/systemd/system -maxdepth 1 -name 'natlb*.service' -printf '%f\\n'").split()
    assert bool(units) == (ENGINE != "none")
    for unit in units:
        exposure = host.run(f"systemd-analyze security --no-pager --threshold={EXPOSURE_AT_MOST} {unit}")
        assert exposure.rc == 0, exposure.stdout


def test_state_is_private(balancer: Any) -> None:
    folder = balancer.file("/etc/natlb")
    if ENGINE == "none":
        assert not folder.exists
    else:
        assert (folder.mode, folder.user, folder.group) == (0o700, "root", "root")


@pytest.mark.skipif(LAB.get("rebooted", False), reason="a reboot takes rules away that nobody saved")
def test_rules_of_others_are_as_they_were(balancer: Any) -> None:
    check = balancer.run("/lab/foreign-rules check")
    assert check.rc == 0, check.stdout


@pytest.mark.skipif(not LAB.get("rebooted", False), reason="only after a reboot")
def test_a_reboot_came_to_pass(balancer: Any) -> None:
    assert "operator" not in balancer.check_output("nft list tables")


def test_no_unit_failed(balancer: Any) -> None:
    assert balancer.check_output("systemctl --failed --no-legend") == ""
