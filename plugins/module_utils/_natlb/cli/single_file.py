# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole core as one text that Python runs: what is installed on a host is the code of the run that installed it.

A text, and not a zip archive, since it is staged, compared, confirmed and taken back with the other files of a run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zipfile
import zipimport
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Ansible packs what a module imports, wherever that stands; the program needs these.
    from . import quick  # noqa: F401

_HERE = Path(__file__)
#: Sources are found by the names of their modules, without the name of the package that this one is in.
_TEMPLATE = '''#!/usr/bin/python3 -I
# natlb: the core of the Ansible collection natlb.netfilter in one file, as its last run left it. {digest}
# Licensed under GPL-3.0-or-later. Run it with --help.
import base64, importlib.abc, importlib.util, json, sys, zlib

SOURCES = json.loads(zlib.decompress(base64.b64decode("""
{packed}
""")))


class Sources(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    digest = "{digest}"

    def find_spec(self, name, path=None, target=None):
        if name in SOURCES:
            return importlib.util.spec_from_loader(name, self, is_package=SOURCES[name][0], origin="natlb/" + name)
        return None

    def is_package(self, name):
        return SOURCES[name][0]

    def get_source(self, name):
        return SOURCES[name][1]

    def exec_module(self, module):
        module.__file__ = "natlb/" + module.__name__.replace(".", "/") + ".py"
        exec(compile(SOURCES[module.__name__][1], module.__file__, "exec"), module.__dict__)


sys.meta_path.insert(0, Sources())
sys.dont_write_bytecode = True
from _natlb.cli.quick import main

sys.exit(main())
'''


def text() -> str:
    """The program, of the code that runs now."""
    packed = _packed()
    armoured = base64.b64encode(zlib.compress(packed, 6)).decode()
    lines = "\n".join(armoured[at : at + 120] for at in range(0, len(armoured), 120))
    return _TEMPLATE.format(digest=_digest(packed), packed=lines)


def digest() -> str:
    """What tells this code from any other."""
    return _digest(_packed())


def _packed() -> bytes:
    return json.dumps(_sources(), sort_keys=True).encode()


def _digest(packed: bytes) -> str:
    return hashlib.sha256(packed).hexdigest()[:16]


def _sources() -> dict[str, tuple[bool, str]]:
    """Whether it is a package, and its source, by name of module."""
    loader = globals().get("__loader__")
    known = getattr(loader, "digest", None)
    if known is not None:
        main = __import__("__main__")
        return {name: (bool(package), source) for name, (package, source) in main.SOURCES.items()}
    if isinstance(loader, zipimport.zipimporter):
        with zipfile.ZipFile(loader.archive) as archive:
            names = [name for name in archive.namelist() if "/_natlb/" in name and name.endswith(".py")]
            texts = {name.rpartition("/_natlb/")[2]: archive.read(name).decode() for name in names}
    else:
        core = _HERE.parents[1]
        texts = {str(path.relative_to(core)): path.read_text("utf-8") for path in sorted(core.rglob("*.py"))}
    return {_module(name): (name.endswith("__init__.py"), source) for name, source in texts.items()}


def _module(path: str) -> str:
    parts = path[: -len(".py")].split("/")
    return ".".join(["_natlb", *(parts[:-1] if parts[-1] == "__init__" else parts)])
