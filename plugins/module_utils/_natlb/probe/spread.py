# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether counts are spread as they should be: pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def chi_square_p(statistic: float, degrees: int) -> float:
    """How likely a chi-square statistic at least this large is by chance, with `degrees` degrees of freedom.

    That is the regularised incomplete gamma function Q(degrees/2, statistic/2). As `degrees` is a whole number, the
    recurrence Q(a+1, x) = Q(a, x) + x^a e^-x / Gamma(a+1) (DLMF 8.8.6) reaches it from Q(1, x) = e^-x (DLMF 8.4.5) or
    Q(1/2, x) = erfc(sqrt(x)) (DLMF 8.4.6) in degrees/2 steps. All terms are positive, so nothing cancels.
    """
    if degrees < 1 or statistic <= 0:
        return 1.0
    if math.isinf(statistic):
        return 0.0
    x = statistic / 2
    a = 1.0 if degrees % 2 == 0 else 0.5
    q = math.exp(-x) if degrees % 2 == 0 else math.erfc(math.sqrt(x))
    while a < degrees / 2:
        q += math.exp(a * math.log(x) - x - math.lgamma(a + 1))
        a += 1
    return min(q, 1.0)


def expected_counts(expected: Mapping[str, float], total: int) -> dict[str, float]:
    """`total` answers shared out in proportion to the weights."""
    whole = math.fsum(expected.values())
    return {name: total * weight / whole for name, weight in expected.items()}


def spread_p(seen: Mapping[str, int], expected: Mapping[str, float]) -> float:
    """Pearson's chi-square test of the counts against the weights. An answer from elsewhere makes it 0."""
    if any(count for name, count in seen.items() if name not in expected):
        return 0.0
    total = sum(seen.values())
    if total == 0:
        return 0.0
    wanted = expected_counts(expected, total)
    return chi_square_p(math.fsum((seen.get(n, 0) - want) ** 2 / want for n, want in wanted.items()), len(wanted) - 1)


def judge(
    seen: Mapping[str, int],
    expected: Mapping[str, float],
    tolerance: float | None,
    significance: float,
    counted: str = "answers",
) -> str | None:
    """None where the spread is the expected one, else a message that names every backend; `counted` is of what.

    With a tolerance each count may be off by that fraction of the expected one; an expected count that is no whole
    number may be rounded either way first. Without one the chi-square test must not fall below `significance`.
    """
    total = sum(seen.values())
    wanted = expected_counts(expected, total)
    strangers = sorted(name for name, count in seen.items() if count and name not in wanted)
    if tolerance is None:
        p = spread_p(seen, expected)
        right, why = p >= significance, f"p = {p:.2g}, the limit is {significance:g}"
    else:
        right = all(_within(seen.get(name, 0), want, tolerance) for name, want in wanted.items())
        why = f"tolerance {tolerance:g}"
    if right and total and not strangers:
        return None
    rows = [f"{name}: expected {want:.6g}, seen {seen.get(name, 0)}" for name, want in wanted.items()]
    rows += [f"{name}: expected none, seen {seen[name]}" for name in strangers]
    return f"the spread of {total} {counted} is not the expected one ({why}): " + "; ".join(rows)


def _within(seen: int, want: float, tolerance: float) -> bool:
    # The small term is for shares such as 0.1 + 0.2, whose product is a hair beside the whole number that is meant.
    hair = 1e-6 * max(1.0, want)
    slack = tolerance * want + hair
    return math.floor(want + hair) - slack <= seen <= math.ceil(want - hair) + slack


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed (nearest rank); None of no values."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
