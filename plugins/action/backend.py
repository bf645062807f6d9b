# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's part of the module backend: explains a host that cannot run it."""

from __future__ import annotations

from ansible_collections.natlb.netfilter.plugins.plugin_utils.explained import ExplainedAction


class ActionModule(ExplainedAction):
    """Runs the module."""

    MODULE = "natlb.netfilter.backend"
