# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Imports from the archive in which Ansible sends a module.

Python compiles each module of an archive twice: to load it, and before that only to learn the name of its file
(`get_filename` of zipimport in CPython, from 3.10 on). And it compiles it again in each run. Both together are more
than half of the time of a module that has little to do.

So what was compiled is kept until the host boots, in a file that only root may write. A module's code is found there by
its very text and by all else that makes the code what it is, so another text or another Python never finds it.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib.util
import marshal
import os
import stat
import sys
import tempfile
import zipimport
from types import CodeType

#: Made by the first run that declares something, and gone with what is declared: nothing is kept elsewhere.
FOLDER = "/run/natlb"
#: Of `FOLDER`.
NAME = "code"
#: What a larger file holds was left by versions that are not here any more.
LARGEST = 8 << 20
_DIGEST_SIZE = 16


class Archive(zipimport.zipimporter):
    """Tells the name of a file by where it lies, and remembers what was compiled."""

    def get_filename(self, fullname: str) -> str:
        """As `zipimporter`: raises `ZipImportError` where there is no such module."""
        path = f"{self.archive}/{self.prefix}{fullname.rpartition('.')[2]}"
        return f"{path}/__init__.py" if self.is_package(fullname) else f"{path}.py"

    def get_code(self, fullname: str) -> CodeType:
        """As `zipimporter`, but for tracebacks the name of the file is that within the archive: each run sends another
        one."""
        path = self.get_filename(fullname)
        return _COMPILED.code(self.get_data(path), os.path.relpath(path, self.archive))


class Compiled:
    """What was compiled by this process, and by those before it."""

    def __init__(self) -> None:
        self._path = ""
        self._kept: dict[bytes, bytes] = {}
        self._used: dict[bytes, bytes] = {}
        # The same text is other code for another Python.
        self._of = importlib.util.MAGIC_NUMBER + bytes([sys.flags.optimize])

    def read(self, path: str) -> None:
        """Begin with what is there, where nobody but this user can have written it, and nothing has damaged it."""
        self._path = path
        with contextlib.suppress(OSError), open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                digest, content = file.read(_DIGEST_SIZE), file.read()
                # `marshal` may crash on what it has not written itself.
                if _digest(content) == digest:
                    self._kept = marshal.loads(content)

    def code(self, source: bytes, path: str) -> CodeType:
        """What this text is as code. `path` is for tracebacks."""
        key = _digest(source, self._of)
        if key not in self._used:
            kept = self._kept.get(key)
            self._used[key] = kept or marshal.dumps(compile(source, path, "exec", dont_inherit=True))
        code: CodeType = marshal.loads(self._used[key])
        return code

    def keep(self) -> None:
        """Leave it to those that follow, if there is more. That is for speed alone, so no error keeps anybody."""
        if self._used.keys() <= self._kept.keys():
            return
        content = marshal.dumps({**self._kept, **self._used})
        if len(content) > LARGEST:
            content = marshal.dumps(self._used)
        temporary = None
        try:
            # Where the folder is gone, nothing is declared any more.
            descriptor, temporary = tempfile.mkstemp(prefix=".natlb-", dir=os.path.dirname(self._path))
            with open(descriptor, "wb") as file:
                file.write(_digest(content) + content)
            os.replace(temporary, self._path)
        except OSError:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)


_COMPILED = Compiled()


def compile_once(folder: str = FOLDER) -> None:
    """From now on, in this process and in those that follow it."""
    _COMPILED.read(f"{folder}/{NAME}")
    atexit.register(_COMPILED.keep)
    sys.path_hooks.insert(0, Archive)
    for path, finder in sys.path_importer_cache.items():
        if isinstance(finder, zipimport.zipimporter):
            sys.path_importer_cache[path] = Archive(path)


def _digest(content: bytes, of: bytes = b"") -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_SIZE, key=of).digest()
