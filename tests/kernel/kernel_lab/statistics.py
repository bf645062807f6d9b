# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pearson's chi-square test, without a statistics library."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, lgamma, log


def p_value(seen: Mapping[str, int], weights: Mapping[str, float]) -> float:
    """How likely counts at least this far from their shares are, if the shares are right.

    0 where something was seen that has no share at all.
    """
    if set(seen) - set(weights):
        return 0.0
    total, whole = sum(seen.values()), sum(weights.values())
    statistic = sum(
        (seen.get(name, 0) - total * weight / whole) ** 2 / (total * weight / whole) for name, weight in weights.items()
    )
    return upper_gamma((len(weights) - 1) / 2, statistic / 2)


def upper_gamma(a: float, x: float) -> float:
    """The regularised upper incomplete gamma function Q(a, x) = 1 - P(a, x), by the series of P (DLMF 8.11.4)."""
    if x <= 0:
        return 1.0
    term = total = 1.0 / a
    n = a
    while abs(term) > abs(total) * 1e-15:
        n += 1
        term *= x / n
        total += term
    return max(0.0, 1.0 - total * exp(-x + a * log(x) - lgamma(a)))
