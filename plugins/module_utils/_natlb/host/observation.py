# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan has read of this host, so that the next run can find out whether it would read the same.

A plan follows from its request and from what it reads. Every function that reads the host is marked `observed`. While a
`Watch` is active, it records each such call with a digest of the result. `Watch.replay` calls all of them again. Rules
of nf_tables are not read again, since the kernel numbers their commits (`nf_tables.generation`).
"""

from __future__ import annotations

import functools
import importlib
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, TypeVar

from ..errors import NatlbError

#: The name of what was called, and its arguments.
Call = tuple[str, tuple[Any, ...]]
_Reader = TypeVar("_Reader", bound=Callable[..., Any])

#: Bytes of a text from which on its digest stands for it.
_LONG = 1024
#: The package of all wings.
_CORE = __name__.rpartition(".host.")[0]

_readers: dict[str, Callable[..., Any]] = {}
_inside = threading.local()
_watch: Watch | None = None


class Watch:
    """The calls of one plan. `reads_generation`: rules of nf_tables were read as well. `repeatable` is false if a
    reader failed, and so cannot be called again, or if it was called twice and told two things: a part of the plan
    follows from each of them then."""

    def __init__(self, seen: Mapping[Call, str] | None = None) -> None:
        self.seen: dict[Call, str] = dict(seen or {})
        self.reads_generation = False
        self.repeatable = True

    def replay(self) -> Iterator[tuple[Call, str]]:
        """Every call with the digest of its result now; empty if it cannot be made any more."""
        for name, arguments in self.seen:
            try:
                yield (name, arguments), digest(_reader(name)(*arguments))
            except (ImportError, KeyError, TypeError, NatlbError):
                yield (name, arguments), ""


def observed(reader: _Reader) -> _Reader:
    """Marks a function that reads the host. Its arguments are numbers, strings, paths, and tuples of these."""
    name = f"{reader.__module__.rpartition('_natlb.')[2]}.{reader.__qualname__}"

    @functools.wraps(reader)
    def call(*given: Any) -> Any:
        arguments = tuple(os.fspath(item) if isinstance(item, Path) else item for item in given)
        watch, nested = _watch, getattr(_inside, "nested", False)
        if watch is None or nested:
            return reader(*arguments)
        _inside.nested = True
        try:
            found = reader(*arguments)
        except BaseException:
            watch.repeatable = False
            raise
        finally:
            _inside.nested = False
        told = digest(found)
        if watch.seen.setdefault((name, arguments), told) != told:
            watch.repeatable = False
        return found

    _readers[name] = call
    return call  # type: ignore[return-value]


def _reader(name: str) -> Callable[..., Any]:
    """The reader of this name, from any module of the core. Raises `ImportError` and `KeyError`."""
    if name not in _readers:
        importlib.import_module(f"{_CORE}.{name.rpartition('.')[0]}")
    return _readers[name]


def note_generation() -> None:
    """Record that rules are read whose commits the kernel numbers."""
    if _watch is not None:
        _watch.reads_generation = True


@contextmanager
def watched() -> Iterator[Watch]:
    """Record what is read of the host, in all threads, until the block ends."""
    global _watch  # noqa: PLW0603 - one run at a time reads the host
    _watch = watch = Watch()
    try:
        yield watch
    finally:
        _watch = None


def digest(value: Any) -> str:
    """The same for the same value, in every process."""
    return _bytes_digest(_canonical(value))


def _bytes_digest(data: bytes) -> str:
    # Not needed by whoever only looks; to load OpenSSL takes as long as to start Python.
    import hashlib  # noqa: PLC0415

    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _canonical(value: Any) -> bytes:
    """What tells a value from others of any type. Sets and mappings are in one order. Of a long text its digest
    stands for it, since a copy of it would cost more."""
    if isinstance(value, str):
        data = value.encode("utf-8", "surrogateescape")
        return b"text %d " % len(data) + (data if len(data) < _LONG else _bytes_digest(data).encode())
    if isinstance(value, (set, frozenset)):
        return b"{%s}" % b",".join(sorted(map(_canonical, value)))
    if isinstance(value, Mapping):
        return b"{%s}" % b",".join(sorted(_canonical(item) for item in value.items()))
    if type(value) in (tuple, list):
        return b"[%s]" % b",".join(map(_canonical, value))
    return repr(value).encode("utf-8", "surrogateescape")
