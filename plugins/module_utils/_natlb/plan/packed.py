# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The nested options on their way from the controller to the host: one text in the place of thousands of values.

Ansible copies, checks and compares each value in the arguments of a module several times, on the controller and on the
host, and repeats all of them in the result. For ten thousand services that is 460,000 values and some seconds. A text
is one value.
"""

from __future__ import annotations

import base64
import datetime
import json
import zlib
from collections.abc import Mapping
from typing import Any

#: The option of the module that holds the text. Nobody types it; ansible-test wants it documented all the same.
OPTION = "_packed"
#: What is packed.
NESTED = ("services", "egress", "networks", "conntrack", "metrics")


def pack(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the module `balancer` with the nested ones as one text."""
    nested = {name: options[name] for name in NESTED if options.get(name) is not None}
    if not nested:
        return dict(options)
    # The quickest level makes a tenth of such a text, and the best one no more than a twentieth.
    text = zlib.compress(json.dumps(nested, default=_plain).encode(), 1)
    others = {name: value for name, value in options.items() if name not in nested}
    return {**others, OPTION: base64.b64encode(text).decode()}


def unpack(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as they were typed."""
    found = dict(options)
    text = found.pop(OPTION, None)
    if text is not None:
        found.update(json.loads(zlib.decompress(base64.b64decode(text))))
    return found


def _plain(value: Any) -> Any:
    """What JSON has no word for, as Ansible hands it to a module: values of YAML, or of its own such as a string from a
    vault."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    return value.isoformat() if isinstance(value, datetime.date) else str(value)
