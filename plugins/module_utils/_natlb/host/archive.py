# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Imports from the archive in which Ansible sends a module.

Python compiles each module of an archive twice: to load it, and before that only to learn the name of its file
(`get_filename` of zipimport in CPython, from 3.10 on). That is half of the time of a module that has little to do.
"""

from __future__ import annotations

import sys
import zipimport


class Archive(zipimport.zipimporter):
    """Tells the name of a file by where it lies."""

    def get_filename(self, fullname: str) -> str:
        """As `zipimporter`: raises `ZipImportError` where there is no such module."""
        path = f"{self.archive}/{self.prefix}{fullname.rpartition('.')[2]}"
        return f"{path}/__init__.py" if self.is_package(fullname) else f"{path}.py"


def compile_once() -> None:
    """From now on, in this process."""
    sys.path_hooks.insert(0, Archive)
    for path, finder in sys.path_importer_cache.items():
        if isinstance(finder, zipimport.zipimporter):
            sys.path_importer_cache[path] = Archive(path)
