# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the checkout importable without installing it.

The core is `_natlb`, as on a target; what imports by the collection's full name finds it too, whatever folder the
checkout lies in.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

from hypothesis import settings

CHECKOUT = Path(__file__).resolve().parents[2]

sys.path.insert(0, str(CHECKOUT / "plugins" / "module_utils"))


def _package(name: str, path: str) -> None:
    module = types.ModuleType(name)
    module.__path__ = [path] if path else []
    sys.modules.setdefault(name, module)


if "ansible_collections" not in sys.modules:
    _package("ansible_collections", "")
    _package("ansible_collections.natlb", "")
    _package("ansible_collections.natlb.netfilter", str(CHECKOUT))

# How long an example takes says how busy the machine is.
settings.register_profile("natlb", deadline=None)
settings.load_profile("natlb")
