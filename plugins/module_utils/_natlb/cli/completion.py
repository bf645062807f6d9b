# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a shell offers for the word that is being typed, and the text that makes a shell ask for it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..model.values import endpoint, mappings
from ..model.words import backends_as_given
from ..status.columns import listed
from .commands import COMMANDS, Argument, Command

#: For each shell. All ask `natlb complete -- WORDS`, which answers with lines of a word, a tab, and what it is.
SCRIPTS = {
    "bash": r"""# Completes command lines of natlb(8) in bash.
_natlb() {
    local line=${COMP_LINE:0:COMP_POINT} words found=() word
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    while IFS=$'\t' read -r word _; do found+=("$word"); done < <(natlb complete -- "${words[@]:1}" 2>/dev/null)
    word=${words[-1]}
    # For bash a colon begins a word.
    [[ $word == *:* && $COMP_WORDBREAKS == *:* ]] && found=("${found[@]#"${word%:*}:"}")
    COMPREPLY=("${found[@]}")
}
complete -F _natlb natlb
""",
    "zsh": r"""#compdef natlb
# Completes command lines of natlb(8) in zsh.
_natlb() {
    local -a found
    local word says
    while IFS=$'\t' read -r word says; do found+=("${word//:/\\:}:$says"); done \
        < <(natlb complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)
    _describe natlb found
}
if [[ ${funcstack[1]} == _natlb ]]; then _natlb "$@"; else compdef _natlb natlb; fi
""",
    "fish": r"""# Completes command lines of natlb(8) in fish.
complete -c natlb -f -a '(natlb complete -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
""",
}
_HELP = Argument("--help", "show what the command does")


def candidates(words: Sequence[str], state: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Words that may stand where the last of these does, each with what it is. `state` is what a run has kept."""
    *before, typed = words or [""]
    return [(word, says) for word, says in _candidates(before, typed, state) if word.startswith(typed)]


def _candidates(before: Sequence[str], typed: str, state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not before:
        yield from ((command.name, command.summary) for command in COMMANDS)
        return
    command = next((item for item in COMMANDS if item.name == before[0]), None)
    if command is None:
        return
    given, places = _read(command, before[1:])
    waiting = next((item for item in command.arguments if item.name == before[-1] and item.kind), None)
    if waiting is not None:
        yield from _names(waiting, given, state)
    elif typed.startswith("-"):
        yield from ((item.name, item.help) for item in (*command.arguments, _HELP) if _is_open(item, given))
    else:
        positional = [item for item in command.arguments if not item.is_option]
        if places < len(positional):
            yield from _names(positional[places], given, state)


def _is_open(item: Argument, given: Mapping[str, str]) -> bool:
    return item.is_option and item.name not in given


def _read(command: Command, words: Sequence[str]) -> tuple[dict[str, str], int]:
    """The options that were given, with their values, and the number of other words."""
    with_value = {item.name for item in command.arguments if item.is_option and item.kind}
    given: dict[str, str] = {}
    places, option = 0, ""
    for word in words:
        if option in with_value:
            given[option], option = word, ""
        elif word.startswith("-"):
            given[word], option = "", word
        else:
            places, option = places + 1, ""
    return given, places


def _names(item: Argument, given: Mapping[str, str], state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not isinstance(item.names, str):
        yield from ((word, "") for word in item.names)
        return
    services = [each for each in mappings(state.get("services")) if isinstance(each.get("name"), str)]
    if item.names == "service":
        for service in services:
            backends = sorted({name for name, _at in _backends(service)})
            yield service["name"], listed(backends)
    elif item.names == "backend":
        owners: dict[str, list[str]] = {}
        for service in services:
            if given.get("--service", service["name"]) == service["name"]:
                for pair in _backends(service):
                    for name in dict.fromkeys(pair):
                        owners.setdefault(name, []).append(service["name"])
        yield from ((name, f"of {listed(names)}") for name, names in owners.items())


def _backends(service: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The name of each, and its address with its port."""
    for backend in backends_as_given(service.get("backends")):
        yield str(backend.get("name") or backend["address"]), endpoint(backend["address"], backend["port"])
