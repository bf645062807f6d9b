# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists of client networks that are named once, and that services use by their names. Pure.

Names have neither `.` nor `:`, so no network reads as one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple, Optional

from ..errors import ConfigError
from . import values
from .reading import NO_VALUE, Reading

#: The networks of each list, each once. A list that cannot be read is empty.
NetworkLists = Mapping[str, tuple[str, ...]]
#: The same while a declaration is read; None where it is not known which lists there are.
KnownLists = Optional[NetworkLists]
NO_LISTS: NetworkLists = {}
#: In place of a declaration of lists where nobody knows what is declared: a name may stand for any networks.
UNKNOWN: Any = object()
#: Keys of a service whose values may name lists.
MAY_NAME_LISTS = frozenset({"allow_from", "deny_from", "snat_by_client", "pins"})

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}\Z")
#: What is meant as a name, if not as one that there is.
_MEANT_AS_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
#: What begins a comment in lists that are published, such as those of Spamhaus.
_COMMENT = re.compile("[#;]")
#: What some editors write at the beginning of a file.
_BYTE_ORDER = "\ufeff"
#: So many names, or errors of one list, are told.
_TOLD = 8
_EMPTY = "write at least one network; a file or a template may have come out empty"


class Words(NamedTuple):
    """What a service has declared as `allow_from` and `deny_from` where names of lists are among it; else empty."""

    allow_from: tuple[str, ...] = ()
    deny_from: tuple[str, ...] = ()

    @property
    def alone(self) -> str | None:
        """The name of the list that is all of it: services with the same can share what is made of it."""
        both = self.allow_from + self.deny_from
        return both[0] if len(both) == 1 else None


NO_WORDS = Words()


class Listed(NamedTuple):
    """Networks as a service names them, each once, and the words that stand for them."""

    networks: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


NOTHING = Listed()


def read_lists(value: Any) -> tuple[KnownLists, list[ConfigError]]:
    """What is declared as `networks`, and what is wrong with it."""
    reading = Reading()
    if value is UNKNOWN:
        return None, []
    if value is None:
        return NO_LISTS, []
    if not isinstance(value, Mapping):
        reading.add("networks", f"{values.shown(value)} is not a mapping", "write a list of networks for each name")
        return None, reading.errors
    found: dict[str, tuple[str, ...]] = {}
    for key, item in value.items():
        name = reading.read(_list_name, key, otherwise=None)
        if name is not None:
            found[name] = reading.read(_networks, item, f"networks.{name}", otherwise=())
    return found, reading.errors


def are_known(lists: KnownLists) -> bool:
    """Whether it is known which networks each name stands for."""
    return lists is not None and all(lists.values())


def readable_lists(value: Any) -> NetworkLists:
    """Those of them in which nothing is wrong."""
    found = read_lists(value)[0] or NO_LISTS
    return {name: networks for name, networks in found.items() if networks}


def _list_name(key: Any) -> str:
    if isinstance(key, str) and _NAME.match(key):
        return key
    if _is_network(key):
        problem = f"{values.shown(key)} reads as a network, so it cannot name a list"
        raise ConfigError("networks", problem, "choose a name such as office")
    remedy = "use 1 to 63 of a-z, 0-9, _ and -, with a letter first"
    raise ConfigError("networks", f"{values.shown(key)} is not a name", remedy)


def _is_network(value: Any) -> bool:
    try:
        values.network(value, "")
    except ConfigError as error:
        # It has bits behind its prefix, say.
        return not error.problem.endswith("is not a network")
    return True


def _networks(value: Any, path: str) -> tuple[str, ...]:
    if value is None:
        raise ConfigError(path, NO_VALUE, _EMPTY)
    reading = Reading()
    found = dict.fromkeys(reading.each(values.network_text, _items(value, path)))
    if len(reading.errors) > _TOLD:
        more = len(reading.errors) - _TOLD
        reading.errors = reading.errors[:_TOLD]
        reading.add(path, f"{more:,} more items are wrong", "write networks, one an item or a line")
    reading.done()
    if not found:
        raise ConfigError(path, "is empty", _EMPTY)
    return tuple(found)


def _items(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The items of a list, or the lines of a text, without comments and blank ones. An item may be a text of lines."""
    is_list = isinstance(value, (list, tuple))
    for at, item in [(f"{path}[{n}]", item) for n, item in enumerate(value)] if is_list else [(path, value)]:
        if isinstance(item, str):
            yield from _parts(item, at)
        else:
            yield at, item


def _parts(text: str, path: str) -> Iterator[tuple[str, str]]:
    lines = text.removeprefix(_BYTE_ORDER).splitlines()
    for number, line in enumerate(lines, 1):
        at = path if len(lines) == 1 else f"line {number} of {path}"
        for part in _COMMENT.split(line, maxsplit=1)[0].split(","):
            if part.strip():
                yield at, part.strip()


def read_listed(value: Any, path: str, without: str, lists: KnownLists) -> Listed:
    """Networks and names of lists, as a service has them. An empty list, as a template may give it, is refused; the
    remedy says what to do `without` any."""
    reading = Reading()
    words = reading.each(lambda item, at: read_word(item, at, lists), values.one_or_more(value, path))
    reading.done()
    if not words:
        raise ConfigError(path, "is empty", without)
    return Listed(expanded(words, lists), tuple(dict.fromkeys(words)))


def words_of(allow: Iterable[str], deny: Iterable[str]) -> Words:
    """Both as they are declared, each word once, where some are names; else nothing."""
    found = Words(tuple(allow), tuple(deny))
    return found if name_lists(found.allow_from + found.deny_from) else NO_WORDS


def name_lists(words: Iterable[str]) -> bool:
    """Whether names are among these words, which have been read."""
    return any(map(_NAME.match, words))


def expanded(words: Iterable[str], lists: KnownLists) -> tuple[str, ...]:
    """The networks that these words stand for, each once. Raises `KeyError` for the name of a list that is not there,
    if it is known which ones are."""
    words = tuple(words)
    if len(words) == 1 and lists and words[0] in lists:
        return lists[words[0]]
    found: dict[str, None] = {}
    for word in words:
        if not _NAME.match(word):
            found[word] = None
        elif lists is not None:
            found.update(dict.fromkeys(lists[word]))
    return tuple(found)


def read_word(value: Any, path: str, lists: KnownLists) -> str:
    """A network, or the name of a list."""
    if isinstance(value, str) and _MEANT_AS_NAME.match(value):
        if value in lists if lists is not None else _NAME.match(value):
            return value
        raise _unknown(value, path, lists or NO_LISTS)
    return values.network_text(value, path)


def _unknown(name: str, path: str, lists: NetworkLists) -> ConfigError:
    if not lists:
        remedy = "write one such as 198.51.100.0/24 or 2001:db8::/32, or declare a list of that name in networks"
        return ConfigError(path, f"{values.shown(name)} is not a network", remedy)
    near = difflib.get_close_matches(name.lower(), lists, n=1)
    more = [f"and {len(lists) - _TOLD:,} more"] if len(lists) > _TOLD else []
    remedy = (
        f"did you mean {near[0]}?" if near else f"lists of networks are {', '.join([*islice(lists, _TOLD), *more])}"
    )
    return ConfigError(path, f"{values.shown(name)} is not a network, nor the name of a list of networks", remedy)


def named(services: Any) -> set[str]:
    """The words in services as they are kept, which may be damaged: networks, and the names of lists."""
    found: list[Any] = []
    for service in values.mappings(services):
        found += [service.get(key) for key in Words._fields]
        found += [rule.get("networks") for rule in values.mappings(service.get("snat_by_client"))]
        found += [[pin.get("client")] for pin in values.mappings(service.get("pins"))]
    return {word for words in found if isinstance(words, list) for word in words if isinstance(word, str)}
