# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a filter tells what is wrong with what it was given."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.errors import NatlbError


def as_filter(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, whose errors are those of the filter that has its name."""

    @wraps(function)
    def found(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except NatlbError as error:
            raise AnsibleFilterError(f"natlb.netfilter.{function.__name__}: {error}") from error

    return found
