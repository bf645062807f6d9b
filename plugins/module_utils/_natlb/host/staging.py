# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a change leaves for the next boot, put in place as a whole: the set of files that boots, and the files and links
that refer to it.

What does not affect the former set is put in place before the switch: new units, and links without a target yet. What
the former set may still need is removed after it. So a power cut at any moment leaves a host that boots the old state
or the new one.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional, Union

from ..errors import HostError
from . import boot_set, store, units
from .observation import observed
from .store import Content, Paths
from .units import Orders

#: A file (text and mode), or the target of a link.
Entry = Union[Content, str]
Entries = Mapping[Path, Optional[Entry]]


@dataclass(frozen=True)
class Staging:
    """`files` is the set that boots from now on: None leaves it as it is, and with an empty one nothing boots.

    `before` and `after` are the entries to write before and behind the switch to it, or to remove where None.
    `oneshots` are the units that load rules, which the undoing of a change leaves alone.
    """

    files: Mapping[str, Content] | None = None
    before: Entries = field(default_factory=dict)
    after: Entries = field(default_factory=dict)
    orders: Orders = field(default_factory=Orders)
    oneshots: tuple[str, ...] = ()

    @property
    def removes_all(self) -> bool:
        """Whether it leaves nothing of what was kept."""
        entries = [*self.before.values(), *self.after.values()]
        something = self.files is not None or bool(entries)
        return something and not self.files and not any(entries)

    def dump(self) -> dict[str, Any]:
        """For JSON, see `load`."""
        found = {"files": self.files, "orders": asdict(self.orders), "oneshots": self.oneshots}
        for name in ("before", "after"):
            found[name] = {str(path): entry for path, entry in getattr(self, name).items()}
        return found


def load(kept: Mapping[str, Any]) -> Staging:
    """From what `Staging.dump` made, by way of JSON."""
    files = kept["files"]
    return Staging(
        files=None if files is None else {name: (text, mode) for name, (text, mode) in files.items()},
        before=_entries(kept["before"]),
        after=_entries(kept["after"]),
        orders=units.load(kept["orders"]),
        oneshots=tuple(kept["oneshots"]),
    )


def _entries(kept: Mapping[str, Any]) -> Entries:
    return {Path(path): (entry[0], entry[1]) if isinstance(entry, list) else entry for path, entry in kept.items()}


@observed
def read_entry(path: Path | str) -> Entry | None:
    """What is at a path; None where nothing is."""
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            return os.readlink(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from error
    text = store.read_text(path)
    return None if text is None else (text, stat.S_IMODE(status.st_mode))


@observed
def owner(path: Path | str) -> tuple[int, int] | None:
    """The numbers of the user and the group that a path belongs to, where it is not this process's own."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    found = status.st_uid, status.st_gid
    return None if found == (os.geteuid(), os.getegid()) else found


@observed
def is_writable(folder: Path | str) -> bool:
    """Whether there is such a folder, on a file system that can be written to."""
    return os.access(folder, os.W_OK)


@observed
def wants_folders(folder: Path | str) -> list[str]:
    """The folders of links by which units want others, see systemd.unit(5)."""
    return sorted(map(str, Path(folder).glob("*.wants")))


@contextlib.contextmanager
def prepared(paths: Paths, staging: Staging) -> Iterator[Callable[[], None]]:
    """Make everything complete beside what is there; the function that comes out puts all of it in place, or nothing.

    What can fail (a full disk, a file system that is read-only) fails before the body runs. To be called with the lock
    held.
    """
    change = _Change(paths, staging)
    try:
        change.prepare()
        yield change.carry_out
    finally:
        change.discard()


class _Change:
    """One staging on its way to its places."""

    def __init__(self, paths: Paths, staging: Staging) -> None:
        self._paths, self._staging = paths, staging
        self._made: dict[Path, str] = {}
        #: Folders that are of no use any more where they are empty.
        self._folders: list[Path] = []
        self._set: Path | None = None
        #: What puts one step back, and the second names of what has been replaced.
        self._undo: list[Callable[[], None]] = []
        self._kept: list[str] = []
        self._ordered = False

    def prepare(self) -> None:
        for path, entry in [*self._staging.before.items(), *self._staging.after.items()]:
            if entry is not None:
                self._make_folder(path.parent)
                self._made[path] = _beside(path, entry)
            elif os.path.lexists(path) and not os.access(path.parent, os.W_OK):
                raise HostError(f"{path}: cannot be removed: {path.parent} cannot be written to")
        if self._staging.files:
            self._set = boot_set.build(self._paths.etc, self._staging.files)
        elif self._staging.files is not None and self._paths.etc.exists() and not os.access(self._paths.etc, os.W_OK):
            raise HostError(f"{self._paths.etc}: cannot be written to")

    def _make_folder(self, folder: Path) -> None:
        """Those of the system are for everybody to read, unlike ours."""
        if folder in (self._paths.etc, self._paths.run):
            store.make_directory(folder)
            return
        missing = [part for part in (folder, *folder.parents) if not part.exists()]
        for part in reversed(missing):
            try:
                part.mkdir()
                part.chmod(0o755)
            except OSError as error:
                raise HostError(f"{part}: cannot be made: {error.strerror}") from error
            self._folders.append(part)

    def carry_out(self) -> None:
        staging, etc = self._staging, self._paths.etc
        try:
            if staging.orders.reload:
                store.write_text(self._paths.run / store.RELOAD, "")
            self._place(staging.before)
            if staging.files is not None:
                former = boot_set.current(etc)
                self._undo.append(lambda: boot_set.switch(etc, former))
                boot_set.switch(etc, self._set)
            self._place(staging.after)
            self._ordered = True
            units.stop(staging.orders)
            if staging.orders.reload:
                units.reload()
                store.remove(self._paths.run / store.RELOAD)
            units.start(staging.orders)
        except BaseException:
            self._undo_all()
            raise
        # As `systemctl disable` does, where nothing else is in it.
        entries = staging.after.items()
        self._folders = [path.parent for path, entry in entries if entry is None and path.parent.suffix == ".wants"]

    def _place(self, entries: Entries) -> None:
        for path, entry in entries.items():
            backup = self._second_name(path)
            self._undo.append(lambda path=path, backup=backup: _restore(path, backup))  # type: ignore[misc]
            if entry is None:
                store.remove(path)
            else:
                store.replace(self._made[path], path)
                del self._made[path]
        for folder in {path.parent for path in entries}:
            store.sync_folder(folder)

    def _second_name(self, path: Path) -> str | None:
        """For as long as it may have to be put back; None where there is nothing."""
        name = f"{path.parent}/{store.TEMPORARY}{os.urandom(6).hex()}"
        try:
            os.link(path, name, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise store.unwritten(path, error) from error
        self._kept.append(name)
        return name

    def _undo_all(self) -> None:
        for step in reversed(self._undo):
            with contextlib.suppress(HostError, OSError):
                step()
        with contextlib.suppress(HostError):
            if self._staging.orders.reload:
                units.reload()
                store.remove(self._paths.run / store.RELOAD)
        if self._ordered:
            units.undo(self._staging.orders, self._staging.oneshots)

    def discard(self) -> None:
        """Remove what is not in its place, or not needed to go back to any more."""
        for name in (*self._made.values(), *self._kept):
            store.discard(name)
        for folder in reversed(self._folders):
            with contextlib.suppress(OSError):
                folder.rmdir()
        with contextlib.suppress(HostError):
            boot_set.remove_unused(self._paths.etc)
            if boot_set.current(self._paths.etc) is None:
                store.remove_directory(self._paths.etc)


def _beside(path: Path, entry: Entry) -> str:
    return store.new_link(path, entry) if isinstance(entry, str) else store.new_file(path, *entry)


def _restore(path: Path, backup: str | None) -> None:
    if backup is None:
        path.unlink(missing_ok=True)
    else:
        os.replace(backup, path)


def remove_unfinished(paths: Paths) -> None:
    """Remove what a killed run was about to write. To be called with the lock held."""
    for directory in (paths.etc, paths.run, *system_folders(paths)):
        for path in directory.glob(f"{store.TEMPORARY}*"):
            store.remove(path)
    boot_set.remove_unused(paths.etc)


def system_folders(paths: Paths) -> list[Path]:
    """The folders of the system that a run may write to."""
    if paths.system is None:
        return []
    unit_folder = paths.system / "etc/systemd/system"
    more = [paths.system / name for name in ("etc/sysctl.d", "etc/modules-load.d", "usr/local/sbin")]
    return [unit_folder, *map(Path, wants_folders(unit_folder)), *more]
