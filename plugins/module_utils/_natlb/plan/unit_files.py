# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The texts of the systemd units, and of the sysctl.d(5) and modules-load.d(5) files. Pure.

What a unit executes is `/bin/sh` with a file of ours, never the file itself: on a hardened host nothing below /etc can
be executed (noexec, NoExecPaths=, SELinux's etc_t).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..model import helpers
from ..model.entities import Service
from ..warnings.boot_settings import SYSCTL_FILE
from .forwarding import interface_of

MAIN, RESTORE = "natlb.service", "natlb-restore.service"
FIREWALLD, UPLINKS = "natlb-firewalld.service", "natlb-uplinks.service"
AGENT = "natlb-agent.service"
#: Every unit that a run may leave on a host.
NAMES = (MAIN, RESTORE, FIREWALLD, UPLINKS, AGENT)
WRITTEN = "# Written by natlb.netfilter, as its last successful run; changes here are undone."
MODULES_FILE = "natlb.conf"
UPLINKS_SCRIPT = "boot-uplinks"
#: Of the agent's program, among the files that boot.
PROGRAM = "natlb"
_BOOT = "multi-user.target"


@dataclass(frozen=True)
class Unit:
    """A unit and the units that bring it up at boot. `started`: it is to be active now. `restarted`: a change of its
    file restarts it, and a change of a file in `follows`. `loads_modules`: its sandbox is the wider one."""

    name: str
    text: str
    wanted_by: tuple[str, ...]
    started: bool = False
    restarted: bool = False
    follows: tuple[str, ...] = ()
    loads_modules: bool = False


class AgentUnit(NamedTuple):
    """What the agent's unit depends on: the Python that runs it, whether checks are programs, and the folder that it
    writes metrics to."""

    python: str
    runs_programs: bool
    metrics: str | None = None


def units(etc: Path, uplinks: bool, agent: AgentUnit | None, loads_modules: bool) -> list[Unit]:
    """The units of a host that balances.

    `loads_modules`: what boots runs iptables, which may be iptables-legacy.
    """
    sandbox = _sandbox(loads_modules)

    def text(template: str, sandbox: str = sandbox) -> str:
        python, propagated = (agent.python, "") if agent else ("", _PROPAGATED)
        return template.format(written=WRITTEN, etc=etc, sandbox=sandbox, python=python, propagated=propagated)

    firewalls = ("nftables.service", "firewalld.service")
    found = [Unit(MAIN, text(_MAIN), (_BOOT,), started=True, loads_modules=loads_modules)]
    if not agent:
        # The agent notices by itself what other firewalls do.
        found += [
            Unit(RESTORE, text(_RESTORE), firewalls, loads_modules=loads_modules),
            # Does nothing where firewalld does not run; where it runs already, it follows from now on.
            Unit(FIREWALLD, text(_FIREWALLD), firewalls[1:], restarted=True, loads_modules=loads_modules),
        ]
    if uplinks:
        sandboxed = text(_UPLINKS, _uplinks_sandbox())
        found.append(Unit(UPLINKS, sandboxed, (_BOOT,), started=True, restarted=True, follows=(UPLINKS_SCRIPT,)))
    if agent:
        sandboxed = text(_AGENT, _agent_sandbox(etc, loads_modules, agent))
        kept = {"started": True, "restarted": True, "loads_modules": loads_modules}
        found.append(Unit(AGENT, sandboxed, (_BOOT,), follows=(PROGRAM,), **kept))
    return found


def sysctl_text(settings: Mapping[str, str]) -> str:
    """Settings by name with slashes, as sysctl.d(5) has them.

    With a dash in front, an interface that is not there is no error. udev applies its settings once it comes.
    """
    lines = [f"{'-' if interface_of(name) else ''}{name} = {value}\n" for name, value in sorted(settings.items())]
    return f"{WRITTEN}\n{''.join(lines)}"


def modules_text(has_settings: bool, services: Iterable[Service]) -> str:
    """The modules that are there before anything else of these services, as modules-load.d(5) has them. Empty where
    there are none."""
    of_settings = (
        [f"# The settings of /etc/sysctl.d/{SYSCTL_FILE} belong to it.\nnf_conntrack\n"] if has_settings else []
    )
    found = [*of_settings, *(f"{module}\n" for module in helpers.modules(services))]
    return "".join([f"{WRITTEN}\n", *found]) if found else ""


# -- texts -----------------------------------------------------------------------------------------------------------

_MAIN = """\
{written}
[Unit]
Description=NAT load balancing rules (natlb.netfilter)
Documentation=man:nft(8) man:iptables(8)
DefaultDependencies=no
ConditionPathExists={etc}/boot
Wants=network-pre.target
Before=network-pre.target shutdown.target
Conflicts=shutdown.target
# Their stock configurations begin with a flush of everything.
After=local-fs.target nftables.service iptables.service ip6tables.service
After=netfilter-persistent.service ufw.service firewalld.service
{propagated}
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh {etc}/boot
ExecReload=/bin/sh {etc}/boot
{sandbox}
[Install]
WantedBy=multi-user.target
"""
#: In the main unit, where no agent runs.
_PROPAGATED = """\
# After a reload of them the rules come back by this line, after a start by natlb-restore.service. Not PartOf them:
# firewalld stops nftables, and a restart of firewalld would then have to stop and to restart this unit at once, which
# systemd refuses, along with the restart of firewalld.
ReloadPropagatedFrom=nftables.service firewalld.service
"""
_RESTORE = """\
{written}
[Unit]
Description=NAT load balancing rules once more, since a start of another firewall may have flushed them
ConditionPathExists={etc}/boot
After=nftables.service firewalld.service natlb.service
# However often they are started: the last of these starts is the one that counts.
StartLimitIntervalSec=0

# No RemainAfterExit: it has to run at every start of these units, also while natlb.service counts as active.
[Service]
Type=oneshot
ExecStart=/bin/sh {etc}/boot
{sandbox}
[Install]
WantedBy=nftables.service firewalld.service
"""
_FIREWALLD = """\
{written}
[Unit]
Description=NAT load balancing rules in iptables once more, each time that firewalld has flushed them
ConditionPathExists={etc}/boot
After=firewalld.service dbus.service
PartOf=firewalld.service

# Whatever its backend, firewalld flushes all of iptables: at a start after it counts as started, so it is asked first
# whether it is done, and at `firewall-cmd --reload`, of which only a signal on D-Bus tells.
[Service]
ExecCondition=/bin/systemctl is-active --quiet firewalld.service
ExecStart=/bin/sh -c '(firewall-cmd --state; exec /bin/sh {etc}/boot) & \\
busctl monitor --match=type=signal,interface=org.fedoraproject.FirewallD1,member=Reloaded | \\
while read -r line; do \\
case $$line in *Member=Reloaded*) ls {etc}/current/*.ip* > /dev/null && /bin/sh {etc}/boot;; esac; \\
done'
StandardOutput=null
Restart=always
RestartSec=1
{sandbox}
[Install]
WantedBy=firewalld.service
"""
_UPLINKS = """\
{written}
[Unit]
Description=Routes and rules of the uplinks that natlb.netfilter balances over, kept in place
Documentation=man:ip-rule(8)
ConditionPathExists={etc}/boot-uplinks
After=network.target natlb.service

# Once at the start, and then whenever links, addresses, routes or rules change, whoever brings interfaces up and down.
# It does not wait for the network to be online: an uplink that is missing would make everything wait.
[Service]
Type=exec
ExecStart=/bin/sh {etc}/boot-uplinks follow
Restart=on-failure
RestartSec=5s
{sandbox}
[Install]
WantedBy=multi-user.target
"""
_AGENT = """\
{written}
[Unit]
Description=Health checks of backends, and rules that come back (natlb.netfilter)
ConditionPathExists={etc}/current/natlb
After=network.target natlb.service nftables.service firewalld.service
# Without a limit to restarts: after some crashes in a row nobody would check backends or restore rules any more.
StartLimitIntervalSec=0

[Service]
Type=notify
# -OO leaves out what people read in source, a MiB of it.
ExecStart={python} -I -OO {etc}/current/natlb agent
WatchdogSec=60s
# A socket for each check under way: with a thousand dark backends several hundred.
LimitNOFILE=65536
Restart=always
RestartSec=1s
# A stop changes no rule: what was found stays in the kernel.
{sandbox}
[Install]
WantedBy=multi-user.target
"""
#: What all units of ours are denied. `systemd-analyze security` says what that leaves open.
_DENIED = """\
SystemCallErrorNumber=EPERM
SystemCallArchitectures=native
RestrictAddressFamilies=AF_NETLINK AF_INET AF_INET6 AF_UNIX
IPAddressDeny=any
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelTunables=yes
PrivateDevices=yes
PrivateMounts=yes
PrivateTmp=yes
KeyringMode=private
UMask=0077
"""
_HEAD = """\
# The sandbox of this unit; `systemd-analyze security` says what it leaves open. The unit runs as root, since {why}, and
# in the host's own network, which it changes. An older systemd passes over what it does not know.
"""
_CALLS = "NoNewPrivileges=yes\nSystemCallFilter=@system-service\nSystemCallFilter=~@privileged @resources\n"
_NO_MODULES = "ProtectKernelModules=yes\n"
#: /run/xtables.lock, which iptables-legacy shares with all others, need not be there yet.
_LOCK = "# /run/xtables.lock of iptables-legacy is below /run.\nReadWritePaths=/run\n"


def _sandbox(loads_modules: bool) -> str:
    """What loads the rules may change the network; with iptables it may load modules as well."""
    head = _HEAD.format(why="its files are root's alone")
    if loads_modules:
        head += (
            "# CAP_NET_RAW is for the raw sockets of iptables-legacy, CAP_SYS_MODULE for its modprobe of ip_tables:\n"
            "# without that there is no socket option to ask the kernel by. The kernel loads other modules by itself.\n"
            "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_SYS_MODULE\n"
        )
        return f"{head}{_CALLS}SystemCallFilter=@module\n{_DENIED}{_LOCK}"
    head += (
        "# CAP_NET_RAW is for iptables. The kernel loads the modules of nft by itself.\n"
        "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW\n"
    )
    return f"{head}{_CALLS}{_NO_MODULES}{_DENIED}{_LOCK}"


def _agent_sandbox(etc: Path, loads_modules: bool, agent: AgentUnit) -> str:
    """It loads rules, asks backends, and writes what it finds; a check may be a program of its own, run as nobody."""
    users = " CAP_SETUID CAP_SETGID CAP_KILL" if agent.runs_programs else ""
    raw = " CAP_NET_RAW CAP_SYS_MODULE" if loads_modules else " CAP_NET_RAW"
    head = _HEAD.format(why="its files are root's alone")
    if agent.runs_programs:
        head += "# CAP_SETUID, CAP_SETGID and CAP_KILL are for checks that are programs: they run as another user.\n"
    head += f"CapabilityBoundingSet=CAP_NET_ADMIN{users}{raw}\n"
    calls = _CALLS + ("SystemCallFilter=@setuid\n" if agent.runs_programs else "")
    calls += "SystemCallFilter=@module\n" if loads_modules else ""
    kept = [line for line in _DENIED.splitlines(keepends=True) if line not in _NOT_THE_AGENT]
    # A folder that is not there yet does not keep the agent from its work.
    published = "" if agent.metrics is None else f"ReadWritePaths=-{agent.metrics}\n"
    modules = "" if loads_modules else _NO_MODULES
    return f"{head}{calls}{modules}{''.join(kept)}{_LOCK}ReadWritePaths={etc}\n{published}"


#: It speaks to backends, whose addresses are anything, and puts forwarding back where somebody turned it off.
_NOT_THE_AGENT = ("IPAddressDeny=any\n", "ProtectKernelTunables=yes\n")


def _uplinks_sandbox() -> str:
    """It runs `ip` only."""
    head = _HEAD.format(why="its files are root's alone")
    return f"{head}CapabilityBoundingSet=CAP_NET_ADMIN\n{_CALLS}{_NO_MODULES}{_DENIED}"
