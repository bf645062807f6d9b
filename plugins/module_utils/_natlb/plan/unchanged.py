# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decides whether a run would change nothing, without listing, rendering or comparing anything.

A plan follows from the request, from the code, and from what it reads of the host. All three are kept with the outcome
of a run; the rules by the number of the last commit (`host/revision.py`). If all of them are the same again, so is the
outcome: nothing to change. If one differs, or is not known, a run reads and compares everything.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zipimport
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Callable, NamedTuple

from ..errors import HostError
from ..host import revision, store
from ..host.observation import Call, Watch
from ..host.revision import Revision
from ..host.store import Paths
from ..model.network_lists import MAY_NAME_LISTS

#: Of the file.
_FORMAT = 1
_CORE = Path(__file__).parents[1]


class Asked(NamedTuple):
    """What is asked for: digests of all of it with the code that would carry it out (`key`), of that code alone, of
    each service with the lists of networks that it may name, and of these lists."""

    key: str
    code: str
    services: Sequence[str] = ()
    lists: str = ""


def asked(options: Mapping[str, Any]) -> Asked:
    """Digests of the options of a run. What cannot be written down is never the same again."""
    encode = json.JSONEncoder(default=str).encode
    try:
        code = _text_digest(encode([_FORMAT, _code()]))
        listed = options.get("services")
        lists = _text_digest(encode(options.get("networks")))
        services = [_service_digest(item, lists, encode) for item in listed] if isinstance(listed, list) else []
        others = {**options, "networks": None, **({"services": None} if services else {})}
        return Asked(_text_digest(encode([code, services, lists, others])), code, services, lists)
    except (TypeError, ValueError, RecursionError):
        return Asked(os.urandom(16).hex(), "")


def _service_digest(item: Any, lists: str, encode: Callable[[Any], str]) -> str:
    names = isinstance(item, Mapping) and not MAY_NAME_LISTS.isdisjoint(item)
    return _text_digest(encode([item, lists] if names else item))


def _text_digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@cache
def _code() -> list[Any]:
    """What tells this code from any other: as Ansible packs it, or as it lies in a folder. A process goes on with the
    code that it began with."""
    loader = globals().get("__loader__")
    if isinstance(loader, zipimport.zipimporter):
        with zipfile.ZipFile(loader.archive) as archive:
            return sorted([item.filename, item.CRC] for item in archive.infolist() if "/_natlb/" in item.filename)
    return [[str(path.relative_to(_CORE)), _digest(path)] for path in sorted(_CORE.rglob("*.py"))]


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def is_known(paths: Paths, key: str) -> bool:
    """Whether the last run was asked for the same. Nothing else is looked at."""
    return store.read_cache(paths.run / store.SEEN).get("key") == key


def holds(paths: Paths) -> bool:
    """Whether nobody has committed rules of nf_tables since the last run."""
    now = revision.current()
    return now is not None and now.generation is not None and last_revision(paths) == now


def last_revision(paths: Paths) -> Revision | None:
    """The revision that the last run left, where it is certain."""
    kept = store.read_cache(paths.run / store.SEEN).get("revision")
    return Revision(*kept) if isinstance(kept, list) and len(kept) == len(Revision._fields) else None


def outcome(paths: Paths, key: str) -> dict[str, Any] | None:
    """The outcome that is kept, where a run would come to it again. To be called with the lock held."""
    kept = store.read_cache(paths.run / store.SEEN)
    now = revision.current()
    if now is None or kept.get("key") != key or last_revision(paths) != now:
        return None
    try:
        seen = {(str(name), _tuple(arguments)): str(told) for name, arguments, told in kept["seen"]}
        found = dict(kept["outcome"])
    except (KeyError, TypeError, ValueError):
        return None
    # What was seen first is asked about last: nobody may commit anything while the rest is looked at.
    same = all(told == seen[call] for call, told in Watch(seen).replay())
    return found if same and revision.current() == now else None


def keep(
    paths: Paths,
    key: str,
    watch: Watch,
    began: Revision | None,
    commits: int,
    ours: Mapping[Call, str],
    found: Mapping[str, Any],
) -> None:
    """Keep the outcome that the next run would have, where it is certain; otherwise keep none.

    `began` is the moment before the plan, `commits` how many this run has made since, `ours` what it has changed of
    what the plan has seen.
    """
    seen = {call: ours.get(call, told) for call, told in watch.seen.items()}
    now = revision.current()
    theirs = Watch({call: told for call, told in watch.seen.items() if call not in ours})
    doubt = _doubt(watch, began and began.after(commits), now, theirs)
    calls = [[name, list(arguments), told] for (name, arguments), told in seen.items()]
    kept = {"doubt": doubt} if doubt else {"key": key, "revision": now, "seen": calls, "outcome": found}
    try:
        store.write_text(paths.run / store.SEEN, json.dumps(kept))
    except HostError:
        # A full disk makes the next run read everything, and is no fault of this one.
        store.remove(paths.run / store.SEEN)


def _doubt(watch: Watch, expected: Revision | None, now: Revision | None, theirs: Watch) -> str:
    """Why it is not certain what the next run would see; empty where it is. `theirs`: what this one has not changed."""
    if expected is None or now is None:
        return "this kernel does not tell network namespaces apart"
    if not watch.repeatable:
        return "something could not be read, or changed while it was read"
    if watch.reads_generation and now.generation is None:
        return "this kernel does not number the commits of rules"
    if expected != now:
        return f"commit {expected.generation} was expected, and {now.generation} is the last"
    for call, told in theirs.replay():
        if told != theirs.seen[call]:
            return f"{call[0]}{call[1]} has another result now"
    return "" if revision.current() == now else "somebody commits rules at this moment"


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value
