# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be typed: every command with its arguments, examples and exit codes. Pure data, from which `--help`, the
manual page and the completion of shells are made."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

from ..model.entities import MAX_WEIGHT

PROGRAM = "natlb"
#: How long `trace --live` waits for a connection.
LIVE_S = 30
SHELLS = ("bash", "zsh", "fish")
DESCRIPTION = "NAT load balancing with the kernel, as the collection natlb.netfilter has declared it on this host."

DONE, ERROR, USAGE, TOO_FEW, TOO_LATE, BUSY, NO_AGENT, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 7, 130
#: What the exit status says, whatever the command.
EXIT_CODES = {
    DONE: "Done, or nothing was to be done.",
    ERROR: "It could not be done. Standard error says why.",
    USAGE: "The command line was not understood.",
    TOO_FEW: "Refused: fewer backends would be left than --min-active asks for. Nothing was changed.",
    TOO_LATE: "The backend is out of the rotation, and still had connections when the time of --timeout was over.",
    BUSY: "Another change is under way. Nothing was changed.",
    NO_AGENT: "The agent does not answer. What is shown is what it found last.",
    UNREACHABLE: "Something stops the connection.",
    INTERRUPTED: "Ended by Ctrl-C.",
}


#: Commands that read or change what is declared.
OF_THE_DECLARATION = frozenset(
    ("status", "checks", "watch", "drain", "disable", "weight", "restore", "trace", "metrics", "apply")
)


class Argument(NamedTuple):
    """`name` is `--option`, or the name of a positional argument. `kind` reads a value; an option without is a switch.

    `names` is what a shell completes: `service`, `backend`, or words to choose from.
    """

    name: str
    help: str
    kind: Callable[[str], Any] | None = None
    default: Any = None
    optional: bool = False
    #: Whether several words may stand for it.
    many: bool = False
    names: str | tuple[str, ...] = ""
    #: How the value is called.
    value: str = ""

    @property
    def is_option(self) -> bool:
        """Whether it is an option."""
        return self.name.startswith("-")

    @property
    def shown(self) -> str:
        """As a synopsis has it."""
        if not self.is_option:
            return f"[{self.word}]" if self.optional else self.word
        return f"[{self.name} {self.word}]" if self.kind else f"[{self.name}]"

    @property
    def word(self) -> str:
        """What stands for the value."""
        return self.value or self.name.lstrip("-").replace("-", "_").upper()


class Command(NamedTuple):
    """`summary` is one line; `description` is what is to be known beside it. Examples are (command line, what it does);
    `exits` are the exit codes beside those of every command."""

    name: str
    summary: str
    description: str
    examples: Sequence[tuple[str, str]]
    arguments: Sequence[Argument] = ()
    exits: Sequence[int] = ()


def _number(low: float, high: float, kind: Callable[[str], Any] = int) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not a number from {low:g} to {high:g}")
        return value

    return read


_JSON = Argument("--json", "print JSON, for programs")
_SERVICE = Argument("service", "this service alone", str, optional=True, names="service")
_BACKEND = Argument("backend", "its name or address[:port]", str, names="backend")
_ORDER = (
    Argument("--service", "of this service alone; otherwise of every service that has it", str, names="service"),
    Argument("--reason", "shown by status, and in the diff of later runs", str, default="", value="TEXT"),
)
_MIN_ACTIVE = Argument(
    "--min-active",
    "refuse if fewer backends of a service would be left to serve, or fewer than its min_healthy; 0 refuses nothing; "
    "default: 1",
    _number(0, 4096),
    default=1,
    value="NUMBER",
)
_LEAVES = (
    *_ORDER,
    Argument("--wait", "wait until the connections of the backend are gone"),
    Argument("--timeout", "how long to wait; default: 300", _number(0, 86400), default=300, value="SECONDS"),
    Argument("--close", "end the connections that are left then"),
    _MIN_ACTIVE,
)

COMMANDS = (
    Command(
        "status",
        "show what is balanced, and how the backends are",
        "A line for each backend: its share of the new connections, how many it got since the rules were loaded, and "
        "how many it has now. Columns without information are left out.",
        [("natlb status", "all services"), ("natlb status web --json", "one service, for programs")],
        [_SERVICE, _JSON, Argument("--details", "whether services take over, and why not; their marks")],
    ),
    Command(
        "ready",
        "say whether this host can serve, for keepalived",
        "It can if rules are loaded, the kernel forwards, the agent answers where there is to be one, and a backend of "
        "any service can serve. Otherwise standard error says why not, and the exit code is 1. Services of which no "
        "backend can serve are named in any case. It takes little more than the start of Python, whatever is declared.",
        [("natlb ready", "may this host have the virtual address?"), ("natlb ready --json", "for programs")],
        [_JSON],
    ),
    Command(
        "leave",
        "take this host out, so that other balancers serve",
        "natlb ready says no from now on, and why: keepalived gives the virtual addresses up, and routes to them are "
        "withdrawn. Rules stay, and what still arrives is balanced. This outlives runs of Ansible and reboots, until "
        "join. With sudo it is kept by the name of who has typed it.",
        [("natlb leave --reason 'kernel update'", "before maintenance")],
        [Argument("--reason", "shown by ready and status", str, default="", value="TEXT")],
    ),
    Command(
        "join",
        "take leave back, and say whether this host can serve",
        "As natlb ready says it, whose exit code it has. Whoever uses sudo takes back their own leave: a host that "
        "others have taken out as well stays out.",
        [("natlb join", "after maintenance"), ("natlb join --all", "whoever has taken it out")],
        [Argument("--all", "take back the leave of everybody")],
    ),
    Command(
        "checks",
        "show what the agent asks the backends, and what they answer",
        "A line for each check. Services that would ask the same question share one. CHANGES counts the results that "
        "speak for another state, and how many are needed. Without the agent, the declared checks are shown with what "
        "was found last.",
        [("natlb checks", "all checks"), ("natlb checks web --json", "those of one service, for programs")],
        [_SERVICE, _JSON],
        [NO_AGENT],
    ),
    Command(
        "watch",
        "show what happens, as it happens",
        "Changes of health and of overrides, rules that somebody has changed and that came back, other declarations, "
        "and for each backend the new connections a second and the active ones. A terminal is drawn again and again; "
        "everything else gets a line for each event. On a large host counters are read less often, so that no more "
        "than 5 percent of a processor is used. Ctrl-C ends it.",
        [
            ("natlb watch", "on a terminal"),
            ("natlb watch web --json --for 3600 >> web.log", "one service for an hour, a line of JSON for each event"),
        ],
        [
            _SERVICE,
            _JSON,
            Argument("--interval", "seconds between two readings; default: 2", _number(0.1, 3600, float), default=2),
            Argument("--count", "end after so many readings", _number(1, 10**9)),
            Argument("--for", "end after so many seconds", _number(0, 10**9, float), value="SECONDS"),
        ],
    ),
    Command(
        "drain",
        "give a backend no new connections; existing ones go on",
        "This outlives runs of Ansible and reboots, until restore takes it back.",
        [
            ("natlb drain web2 --reason 'kernel update'", "in all services"),
            ("natlb drain web2 --wait --timeout 60 && ssh web2 reboot", "go on once its connections are gone"),
        ],
        [_BACKEND, *_LEAVES],
        [TOO_FEW, TOO_LATE, BUSY],
    ),
    Command(
        "disable",
        "take a backend out of the rotation",
        "As drain, and UDP clients, which stay with a drained backend, leave it at once.",
        [("natlb disable 10.0.0.4:8080 --service web", "the backend of one service")],
        [_BACKEND, *_LEAVES],
        [TOO_FEW, TOO_LATE, BUSY],
    ),
    Command(
        "weight",
        "give a backend another share of the new connections",
        "This outlives runs of Ansible and reboots, until restore takes it back.",
        [("natlb weight web1 3", "three times the share of a backend with weight 1")],
        [
            _BACKEND,
            Argument("weight", f"0 to {MAX_WEIGHT}; 0 gets no new connections", _number(0, MAX_WEIGHT)),
            *_ORDER,
            _MIN_ACTIVE,
        ],
        [TOO_FEW, BUSY],
    ),
    Command(
        "restore",
        "take back what was said of a backend",
        "The backend is as declared again. Health checks may still keep it out. With --only-reason, whatever was said "
        "for other reasons goes on.",
        [
            ("natlb restore web2", "undo drain, disable and weight"),
            (
                "natlb restore web2 --only-reason 'kernel update'",
                "unless somebody has drained it for another reason, too",
            ),
        ],
        [
            _BACKEND,
            *_ORDER,
            Argument("--only-reason", "only what was said with this --reason", str, value="TEXT"),
        ],
        [BUSY],
    ),
    Command(
        "trace",
        "follow a connection that a client would open, and say what stops it",
        "Each line is a step on the way: rules of others, the service, limits as they stand for this client, the "
        "backend, the source address, routes, and the backend itself, which is asked whether it answers. x stops the "
        "connection, ? may stop it. Nothing is changed. The protocol is tcp by default, and the interface where "
        "answers leave.",
        [
            ("natlb trace 198.51.100.7 192.0.2.10:80", "does this client reach the service?"),
            ("natlb trace 198.51.100.7:4711 192.0.2.10:53/udp --json", "from this port, for programs"),
            ("natlb trace 198.51.100.7 192.0.2.10:80 --live", "what its next connection meets, rule by rule"),
        ],
        [
            Argument("connection", "client[:port] and address:port[/protocol]", str, many=True, value="CLIENT TARGET"),
            Argument("--interface", "where the client comes in", str, default="", value="NAME"),
            Argument("--no-contact", "do not ask the backend whether it answers"),
            Argument("--live", "follow the next real connection of this client instead"),
            Argument(
                "--for", f"with --live, how long to wait for it; default: {LIVE_S}", _number(1, 3600), value="SECONDS"
            ),
            _JSON,
        ],
        [UNREACHABLE],
    ),
    Command(
        "metrics",
        "print metrics in the text format of Prometheus",
        "Connections are counted from the first call on. The agent can write the same for node_exporter, or serve it: "
        "see natlb_metrics.",
        [("natlb metrics | promtool check metrics", "are they well-formed?")],
        [Argument("--no-idle", "leave out backends that serve, and have and had no connection")],
    ),
    Command(
        "apply",
        "make the rules be what was declared last",
        "With overrides and health. Prints what was changed.",
        [("natlb apply", "put back what somebody has flushed")],
        exits=[BUSY],
    ),
    Command(
        "agent",
        "check backends, and keep the rules",
        "The unit natlb-agent.service runs it.",
        [("systemctl status natlb-agent", "how it is")],
    ),
    Command(
        "completion",
        "print what completes command lines in a shell",
        "It completes commands, options, and the names of services and backends.",
        [
            ("natlb completion bash > /etc/bash_completion.d/natlb", "for new shells of everybody"),
            ("natlb completion zsh > /usr/local/share/zsh/site-functions/_natlb", "the same for zsh"),
            ("natlb completion fish > /etc/fish/completions/natlb.fish", "the same for fish"),
        ],
        [Argument("shell", "bash, zsh or fish", str, names=SHELLS)],
    ),
    Command(
        "manual",
        "print the manual page",
        "In the language of man(7).",
        [
            ("natlb manual | man -l -", "read it"),
            ("natlb manual > /usr/local/share/man/man8/natlb.8", "from then on, man natlb shows it"),
        ],
    ),
    Command(
        "version",
        "print what tells this code from any other",
        "It is the same on all hosts that were set up by the same version of the collection.",
        [("natlb version", "compare two hosts")],
    ),
)
