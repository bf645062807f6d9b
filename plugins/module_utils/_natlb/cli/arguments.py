# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parser of `natlb COMMAND`, made from `commands.py`. Pure."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Sequence

from ..model.choices import VARIANTS
from . import commands
from .commands import COMMANDS, EXIT_CODES, INTERRUPTED, Command

_WIDTH = 100
#: The command that completes a command line, see `completion.py`.
COMPLETE = "complete"


def beginning(words: Sequence[str]) -> tuple[str | None, str]:
    """The value of `--root`, and the command, of a command line whose rest may be for another version."""
    root, rest = None, list(words)
    while rest and rest[0].startswith("--"):
        name, equals, value = rest.pop(0).partition("=")
        value = value if equals else rest.pop(0) if rest and name in ("--root", "--variant") else ""
        root = value if name == "--root" else root
    return root, rest[0] if rest else ""


def parser() -> argparse.ArgumentParser:
    """The parser. What it makes has the name of the command as `command`."""
    found = argparse.ArgumentParser(
        prog=commands.PROGRAM,
        description=commands.DESCRIPTION,
        epilog=f"{_examples([item for each in COMMANDS for item in each.examples[:1]])}\n\n{_exits(EXIT_CODES)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # For tests: another place than /etc/natlb and /run/natlb, and one variant of iptables.
    found.add_argument("--root", help=argparse.SUPPRESS)
    found.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    subparsers = found.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for command in COMMANDS:
        one = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=textwrap.fill(f"{sentence(command.summary)} {command.description}", _WIDTH),
            epilog=f"{_examples(command.examples)}\n\n{_exits(exits(command))}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_arguments(one, command)
        if any(item.many for item in command.arguments):
            # The parser's own usage would offer several.
            one.usage = " ".join([one.prog, "[-h]", *(item.shown for item in command.arguments)])
    # For shells. Without help it is not in the list.
    subparsers.add_parser(COMPLETE).add_argument("words", nargs=argparse.REMAINDER)
    return found


def _add_arguments(parser: argparse.ArgumentParser, command: Command) -> None:
    for item in command.arguments:
        if item.is_option and item.kind is None:
            parser.add_argument(item.name, action="store_true", help=item.help)
        elif item.is_option:
            parser.add_argument(
                item.name, type=item.kind or str, default=item.default, metavar=item.word, help=item.help
            )
        else:
            choices = item.names if isinstance(item.names, tuple) else None
            nargs = "?" if item.optional else "+" if item.many else None
            name = item.value or None
            parser.add_argument(
                item.name, type=item.kind or str, nargs=nargs, choices=choices, metavar=name, help=item.help
            )


def sentence(words: str) -> str:
    """The words as a sentence."""
    return f"{words[:1].upper()}{words[1:]}."


def exits(command: Command) -> list[int]:
    """The exit codes of a command."""
    return [code for code in EXIT_CODES if code < commands.TOO_FEW or code in command.exits or code == INTERRUPTED]


def _examples(examples: Sequence[tuple[str, str]]) -> str:
    width = max(len(line) for line, _says in examples)
    return "\n".join(["examples:", *(f"  {line.ljust(width)}   {says}" for line, says in examples)])


def _exits(codes: Iterable[int]) -> str:
    return "\n".join(["exit codes:", *(f"  {code:<3}  {EXIT_CODES[code]}" for code in codes)])
