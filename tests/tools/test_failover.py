# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role failover writes, read by keepalived itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import keepalived
import pytest
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / ".ansible" / "collections"))

from ansible_collections.natlb.netfilter.plugins.plugin_utils import failover, state_sync  # noqa: E402

ROLE = ROOT / "roles" / "failover"
ONE = {"addresses": ["192.0.2.10/24"], "interface": "eth0", "router_id": 51}
BOTH = {**ONE, "addresses": ["192.0.2.10/24", "2001:db8:1::10/64"], "track_interfaces": ["eth1"]}
BEHIND = {"gateways": ["10.0.0.1/24", "2001:db8:2::1/64"], "gateway_interface": "eth1"}
OTHER = {**BOTH, "addresses": ["192.0.2.11/24", "2001:db8:1::11/64"], "router_id": 52, "primary": "lb2"}
HOSTS = {
    "lb1": {failover.PEER_ADDRESS: ["192.0.2.2", "2001:db8:1::2"]},
    "lb2": {failover.PEER_ADDRESS: ["192.0.2.3", "2001:db8:1::3"]},
}


def written(addresses: list[Any], folder: Path, host: str = "lb1", **settings: Any) -> Path:
    """The file as the role's template makes it, with a program that is there."""
    given = {
        **yaml.safe_load((ROLE / "defaults" / "main.yml").read_text()),
        **yaml.safe_load((ROLE / "vars" / "main.yml").read_text()),
        "inventory_hostname": host,
        **settings,
    }
    fleet = failover.Fleet([*HOSTS], HOSTS, given[failover.UNICAST])
    given["natlb_failover_instances"] = failover.instances(addresses, host, fleet)
    given["natlb_failover_program"] = settings.get("natlb_failover_program", "/usr/bin/true")
    given["natlb_failover_script"] = "/usr/bin/true"
    return rendered("keepalived.conf.j2", folder / "keepalived.conf", given)


def rendered(template: str, file: Path, given: Mapping[str, Any]) -> Path:
    """What the role makes of one of its templates."""
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["bool"] = bool
    file.write_text(environment.from_string((ROLE / "templates" / template).read_text()).render(given))
    file.chmod(0o600)
    return file


@pytest.mark.parametrize(
    ("addresses", "settings"),
    [
        ([ONE], {}),
        ([BOTH], {}),
        ([{**BOTH, **BEHIND}], {}),
        ([BOTH, OTHER], {"natlb_failover_preempt": True}),
        ([BOTH, OTHER], {"natlb_failover_unicast": False, "natlb_failover_advert_interval": 0.25}),
    ],
    ids=["one", "both families", "gateways", "active/active", "multicast"],
)
def test_keepalived_takes_it(addresses: list[Any], settings: dict[str, Any], tmp_path: Path) -> None:
    for host in HOSTS:
        file = written(addresses, tmp_path, host, **settings)
        done = keepalived.config_test(file, ["eth0", "eth1"])
        assert (done.returncode, done.stdout) == (0, ""), file.read_text()


#: So the kernel takes it as the source of a connection only where there is no other.
NOT_PREFERRED = ["preferred_lft", "0"]


def test_one_instance_moves_all_addresses(tmp_path: Path) -> None:
    file = written([{**BOTH, **BEHIND}], tmp_path).read_text()
    assert file.count("vrrp_instance ") == 1
    assert "vrrp_sync_group" not in file
    (named,) = re.findall(r"virtual_ipaddress \{([^}]*)\}", file)
    assert named.split() == ["192.0.2.10/24", "dev", "eth0"]
    (along,) = re.findall(r"virtual_ipaddress_excluded \{([^}]*)\}", file)
    assert [line.split() for line in along.strip().splitlines()] == [
        ["2001:db8:1::10/64", "dev", "eth0", *NOT_PREFERRED],
        ["10.0.0.1/24", "dev", "eth1"],
        ["2001:db8:2::1/64", "dev", "eth1", *NOT_PREFERRED],
    ]
    assert "virtual_ipaddress_excluded" not in written([ONE], tmp_path).read_text()


@pytest.mark.parametrize(
    ("wrong", "right"), [("virtual_router_id 51", "virtual_router_id 551"), ("interface eth0", "interface eth7")]
)
def test_keepalived_refuses_what_is_wrong(wrong: str, right: str, tmp_path: Path) -> None:
    """Or the test above, and `validate` of the role, would prove nothing."""
    file = written([ONE], tmp_path)
    text = file.read_text()
    assert wrong in text
    file.write_text(text.replace(wrong, right))
    assert keepalived.config_test(file, ["eth0", "eth1"]).returncode != 0


#: A name that the kernel takes, and that echo of some shells makes something else of.
ODD = r"wan\net[*]"


def asked(program: Path, *interfaces: str) -> list[str]:
    """What a host with these interfaces answers the role."""
    given = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
    given["natlb_failover_program"] = str(program)
    question = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(given["natlb_failover_question"])
    lines = f'for name; do ip link add "$name" type bridge; done\n{question.render(given)}'
    inside = ["unshare", "--net", "sh", "-ec", lines, "sh", *interfaces]
    return subprocess.run(inside, text=True, stdout=subprocess.PIPE, check=True).stdout.splitlines()


def test_interfaces_are_read_as_they_are() -> None:
    answer = asked(Path("/usr/bin/true"), "front", ODD)
    (links,) = [json.loads(line.removeprefix("links ")) for line in answer if line.startswith("links ")]
    assert [link["ifname"] for link in links] == ["lo", "front", ODD]
    assert "program" in answer


@pytest.mark.parametrize(
    ("mode", "group", "of"),
    [
        (0o755, 50, "sbin"),
        (0o2775, 50, "sbin"),
        (0o775, 50, "local"),
        (0o775, 0, "sbin"),
        (0o757, 0, "sbin"),
        (0o1777, 0, "sbin"),
        (0o775, 50, "natlb"),
        (0o777, 0, "natlb"),
    ],
)
def test_the_role_knows_what_keepalived_does_not_run(mode: int, group: int, of: str, tmp_path: Path) -> None:
    """As Debian's /usr/local/sbin may be, which the group `staff` may write to."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "local", "sbin", "natlb")
        program.parent.mkdir(parents=True)
        shutil.copy("/usr/bin/true", program)
        for path in (Path(folder), *(Path(folder, name) for name in ("local", "local/sbin", "local/sbin/natlb"))):
            path.chmod(0o755)
            if path.name == of:
                os.chown(path, 0, group)
                path.chmod(mode)
        file = written([ONE], tmp_path, natlb_failover_program=str(program))
        done = keepalived.config_test(file, ["eth0"])
        told = [line for line in asked(program) if line.startswith("open ")]
        assert (done.returncode, "insecure" in done.stdout) == ((5, True) if told else (0, False))
        assert told in ([], [f"open {next(path for path in (program, *program.parents) if path.name == of)}"])


def test_services_are_not_in_it() -> None:
    """A change of services must change nothing here: no variable of theirs is read."""
    files = [*(ROLE / "templates").iterdir(), *(ROLE / "tasks").iterdir(), *(ROLE / "vars").iterdir()]
    read = {name for file in files for name in re.findall(r"natlb_[a-z_]+", file.read_text())}
    assert {name for name in read if not name.startswith("natlb_failover_")} <= {"natlb_ready", "natlb_persist"}


@pytest.mark.parametrize(("changed", "state"), [(True, "restarted"), (False, "started")])
def test_conntrackd_reads_a_new_file_though_a_later_task_fails(changed: bool, state: str) -> None:
    """A handler would be lost then."""
    tasks = yaml.safe_load((ROLE / "tasks" / "sync.yml").read_text())
    assert [task for task in tasks if "notify" in task] == []
    (running,) = (task["ansible.builtin.systemd_service"] for task in tasks if "systemd" in " ".join(task))
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    environment.tests["changed"] = lambda result: result["changed"]
    made = {"natlb_failover_sync_written": {"changed": changed}}
    assert environment.from_string(running["state"]).render(made) == state


LINKS = [
    {"ifname": "lo", "addr_info": [{"local": "127.0.0.1", "prefixlen": 8, "scope": "host"}]},
    {
        "ifname": "eth0",
        "addr_info": [
            {"local": "192.0.2.2", "prefixlen": 24, "scope": "global"},
            {"local": "192.0.2.10", "prefixlen": 24, "scope": "global"},
            {"local": "2001:db8:1::2", "prefixlen": 64, "scope": "global"},
        ],
    },
]


def conntrackd(template: str, file: Path, **settings: Any) -> tuple[Path, str]:
    """A file of conntrackd's as the role writes it on lb1, and the command with which the role has it read."""
    given = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
    synced = state_sync.settings([BOTH], "lb1", failover.Fleet([*HOSTS], HOSTS), LINKS)
    given |= {
        "natlb_failover_sync": True,
        "natlb_failover_tracked": "262144",
        "natlb_failover_synced": {**synced, **settings},
    }
    files = given["natlb_failover_files"] + given["natlb_failover_sync_files"]
    (validate,) = (item["validate"] for item in files if item["source"] == template)
    made = rendered(template, file, given)
    return made, validate % made


@pytest.mark.parametrize(
    ("settings", "wrong", "right", "status"),
    [
        ({}, "", "", 0),
        ({"family": "IPv6", "source": "2001:db8:1::2", "peer": "2001:db8:1::3"}, "", "", 0),
        ({}, "Mode FTFW", "Mode FTWF", 1),
        ({}, "NetlinkOverrunResync no", "NetlinkOverrunResync never", 1),
        ({}, "Interface eth0", "Interface eth7", 1),
        ({}, "IPv4_address 192.0.2.2\n", "IPv4_address 192.0.2.300\n", 1),
    ],
)
def test_conntrackd_reads_it(settings: dict[str, str], wrong: str, right: str, status: int, tmp_path: Path) -> None:
    file, command = conntrackd("conntrackd.conf.j2", tmp_path / "conntrackd.conf", **settings)
    text = file.read_text()
    assert wrong in text
    file.write_text(text.replace(wrong, right, 1))
    done = keepalived.validated(command, ["eth0"])
    assert (done.returncode, done.stdout == "") == (status, status == 0), done.stdout


#: What stands in for `ip`, `sleep` and conntrackd: of the addresses of the host, and what conntrackd is told. That
#: answers once it was asked so many times.
STAND_INS = {
    "ip": """#!/bin/sh\nfor one in $HELD; do if test "$5" = "$one"; then echo "2: eth0 inet $one"; fi; done\n""",
    "sysctl": "#!/bin/sh\n",
    "sleep": "#!/bin/sh\n",
    "conntrackd": """#!/bin/sh
printf "%s\n" "$*" >> "$TOLD"
if test "$*" = -s; then test "$(grep --count -x -e -s "$TOLD")" -ge "$ANSWERS"; fi
""",
}


@pytest.mark.parametrize(
    ("held", "answers", "told"),
    [
        ("", 1, ["-f internal", "-n"]),
        ("192.0.2.10 2001:db8:1::10", 1, ["-R", "-B"]),
        ("192.0.2.10", 1, ["-f internal"]),
        ("", 3, ["-f internal", "-n"]),
        ("", 1000, []),
    ],
    ids=["none", "all", "some", "late", "never"],
)
def test_what_conntrackd_is_told(held: str, answers: int, told: list[str], tmp_path: Path) -> None:
    """Whoever has no address is no source of connections, and whoever has only some would overwrite the other's."""
    script, command = conntrackd("natlb-moved.j2", tmp_path / "natlb-moved")
    assert subprocess.run(command.split(), check=False).returncode == 0
    for name, text in STAND_INS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    script.write_text(script.read_text().replace("PATH=", f"PATH={tmp_path}:", 1))
    orders = tmp_path / "orders"
    subprocess.run(["sh", script], env={"HELD": held, "TOLD": str(orders), "ANSWERS": str(answers)}, check=True)
    asked = ["-s"] * min(answers, 100)
    assert orders.read_text().splitlines() == [*asked, *told], "orders wait for the daemon, and not for ever"
