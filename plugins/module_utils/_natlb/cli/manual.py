# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manual page natlb(8), made from `commands.py` in the language of man(7). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from . import commands
from .arguments import exits, sentence
from .commands import COMMANDS, EXIT_CODES, Command

_FILES = (
    ("/etc/natlb/current/natlb", "The program. It is one file, of the code of the run that left it."),
    ("/etc/natlb/state.json", "What was declared last."),
    ("/etc/natlb/overrides.json", "What was said with drain, disable and weight."),
    ("/run/natlb/health.json", "What the agent found since the boot."),
    ("/run/natlb/agent.sock", "Where the agent answers. Only root may ask."),
)
_INTRODUCTION = """\
natlb shows and changes the balancing of this host, which the Ansible collection natlb.netfilter has set up. It has to
be run by root. The services are declared with Ansible: natlb changes no declaration, but what it says of a backend
outlives runs of Ansible and reboots.
.PP
Commands that show something print tables for people, and JSON with \\-\\-json. Errors are printed to standard error."""


def page() -> str:
    """The page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield '.TH NATLB 8 "" "natlb.netfilter" "System Administration"'
    yield from (".SH NAME", rf"natlb \- {_text('show and change the NAT load balancing of this host')}")
    # No option is broken in two.
    yield ".nh"
    yield ".SH SYNOPSIS"
    for command in COMMANDS:
        yield from (rf".B natlb {_text(command.name)}", _synopsis(command), ".br")
    yield from (".SH DESCRIPTION", _INTRODUCTION)
    yield ".SH COMMANDS"
    for command in COMMANDS:
        yield from _command(command)
    yield from (".SH EXIT STATUS", *_list((str(code), words) for code, words in EXIT_CODES.items()))
    yield from (".SH FILES", *_list(_FILES))
    yield from (".SH SEE ALSO", r".BR nft (8), iptables (8), conntrack (8), ipvsadm (8), systemctl (1)")


def _synopsis(command: Command) -> str:
    return _text(" ".join(item.shown for item in command.arguments)) or r"\&"


def _command(command: Command) -> Iterator[str]:
    yield from (f".SS natlb {_text(command.name)}", _text(f"{sentence(command.summary)} {command.description}"))
    yield from _list(
        (item.word if not item.is_option else f"{item.name} {item.word if item.kind else ''}".strip(), f"{item.help}.")
        for item in command.arguments
    )
    for line, says in command.examples:
        yield from (".PP", _text(sentence(says)[:-1] + ":"), ".PP", ".RS 4", ".nf", _text(line), ".fi", ".RE")
    own = [str(code) for code in exits(command) if commands.USAGE < code < commands.INTERRUPTED]
    if own:
        yield from (".PP", _text(f"Its exit status may also be {', '.join(own)}, see below."))


def _list(items: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, words in items:
        yield from (".TP", f".B {_text(term)}", _text(f"{words[:1].upper()}{words[1:]}"))


def _text(words: str) -> str:
    """Words as roff takes them: dashes that can be copied, and no line that is taken for a request."""
    escaped = words.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("`", r"\(ga")
    return rf"\&{escaped}" if escaped.startswith(".") else escaped
