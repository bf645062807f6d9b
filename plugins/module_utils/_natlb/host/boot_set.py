# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that boot, as one whole: a folder that holds a set of them, and a link that says which set boots.

    /etc/natlb/3f9c04d1a2b35e76/boot, ruleset.nft, state.json
    /etc/natlb/current -> 3f9c04d1a2b35e76
    /etc/natlb/boot -> current/boot

A folder is named by the digest of what is in it, and is complete and on the disk before the link leads there. One
rename(2) of the link switches all files, so a power cut at any moment leaves the old set or the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from ..errors import HostError
from . import store
from .observation import observed
from .store import Content

CURRENT = "current"
#: Names for people, units and readers, which stay the same: links into the current set.
LINKS = (store.BOOT, "boot-uplinks", store.STATE)
_FOLDER = re.compile(r"[0-9a-f]{16}(\.\d+)?")


def current(etc: Path) -> Path | None:
    """The folder of the set that boots; None where nothing does."""
    try:
        name = os.readlink(etc / CURRENT)
    except OSError:
        return None
    return etc / name if _FOLDER.fullmatch(name) and (etc / name).is_dir() else None


@observed
def read(etc: Path | str) -> dict[str, Content]:
    """The set that boots: text and mode of each file by its name."""
    etc = Path(etc)
    while True:
        folder = current(etc)
        try:
            found = {} if folder is None else {path.name: _content(path) for path in sorted(folder.iterdir())}
        except OSError as error:
            if current(etc) == folder:
                raise HostError(f"{folder}: cannot be read: {error.strerror}") from error
            continue
        # A run without the lock, in check mode, may read while another one switches.
        if current(etc) == folder:
            return found


def _content(path: Path) -> Content:
    text, mode = store.read_content(path) or ("", 0)
    return text, mode


def build(etc: Path, contents: Mapping[str, Content]) -> Path:
    """Make a folder with these files, complete and on the disk. Nothing boots from it yet."""
    folder = _unused(etc, _digest(contents))
    store.make_directory(etc)
    _remove(folder)
    try:
        store.make_directory(folder)
        for name, (text, mode) in contents.items():
            store.write_new(folder / name, text, mode)
        store.sync_folder(folder)
        store.sync_folder(etc)
    except HostError:
        with contextlib.suppress(HostError):
            _remove(folder)
        raise
    return folder


def _digest(contents: Mapping[str, Content]) -> str:
    parts = [f"{name}\0{mode:o}\0{text}" for name, (text, mode) in sorted(contents.items())]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _unused(etc: Path, digest: str) -> Path:
    """The folder for a digest. One that boots now and has been changed by somebody keeps its name until it goes."""
    names = itertools.chain([digest], (f"{digest}.{number}" for number in itertools.count(1)))
    return next(etc / name for name in names if etc / name != current(etc))


def switch(etc: Path, folder: Path | None) -> None:
    """From now on this set boots, or with None nothing does."""
    link = etc / CURRENT
    if folder is None:
        store.remove(link)
    else:
        store.replace(store.new_link(link, folder.name), link)
    store.sync_folder(etc)


def links(etc: Path) -> dict[Path, str]:
    """What the names that stay have to lead to."""
    return {etc / name: f"{CURRENT}/{name}" for name in LINKS}


def remove_unused(etc: Path) -> None:
    """Remove the sets that do not boot. To be called with the lock held."""
    kept = current(etc)
    for path in etc.glob("*"):
        if path != kept and _FOLDER.fullmatch(path.name):
            _remove(path)


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise HostError(f"{folder}: cannot be removed: {error.strerror}") from error
