"""How likely a sum is when each of its terms could as well have had the other sign.

Two versions that are equally good err more on some recordings each: whose errors are the more
numerous is as good as thrown by a coin for every cluster. The share of all 2^n signs whose sum is
at least the one seen is the randomisation test's p-value (Fisher; the wild cluster bootstrap draws
from the same signs). It is right with single recordings that outweigh all others, such as
transcripts that loop, where Student's t is far too careful. It is computed from the sum's exact
cumulants by the saddlepoint approximation (Lugannani and Rice, 1980), so nothing is drawn.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

MAX_STEPS = 60
NOTHING = 1e-9  # of all terms together
ENOUGH = 1e-7  # of the sum, by which the saddlepoint may be off


def tail(terms: Floats, times: float = 1.0, *, mid_p: bool = False) -> float:
    """Chance that Σ ±terms is at least Σ terms, which must be above 0.

    With `times`, each term is there so many times (also a fraction): a larger experiment. Where
    all terms have one sign, `mid_p` counts half of that chance (Lancaster, 1961), which is what
    the approximation amounts to everywhere else.
    """
    total, most = float(terms.sum()), float(np.abs(terms).sum())
    if total <= 0:
        return 0.5
    if total >= most * (1 - NOTHING):  # all have one sign; a term that is next to nothing has none
        return float(2.0 ** -(np.count_nonzero(terms > most * NOTHING) * times + mid_p))
    point = _saddlepoint(terms, total, most)
    steep = np.abs(point * terms)
    log_cosh = float((steep + np.log1p(np.exp(-2 * steep)) - math.log(2)).sum())
    spread = float((terms**2 / np.cosh(np.minimum(steep, 300)) ** 2).sum())
    w = math.sqrt(max(2 * times * (point * total - log_cosh), 1e-12))
    u = max(point * math.sqrt(times * spread), 1e-9)
    density = math.exp(-w * w / 2) / math.sqrt(2 * math.pi)
    return min(1.0, max(0.0, float(special.ndtr(-w)) + density * (1 / u - 1 / w)))


def _saddlepoint(terms: Floats, total: float, most: float) -> float:
    """Where the derivative of the sum's cumulant generating function is the sum itself."""
    low, high = 0.0, math.inf
    squares = float((terms**2).sum())
    point = total / squares
    for _ in range(MAX_STEPS):
        tanh = np.tanh(point * terms)
        here = float(terms @ tanh)
        if abs(here - total) <= ENOUGH * most:
            break
        low, high = (point, high) if here < total else (low, point)
        slope = squares - float(((terms * tanh) ** 2).sum())
        following = point + (total - here) / max(slope, 1e-12 * squares)
        if not low < following < high:  # Newton's step leads out: halve or double
            following = 2 * point if math.isinf(high) else (low + high) / 2
        point = following
    return point
