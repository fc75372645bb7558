"""How sure is a difference between two sets of training runs?

A score is that of one training; another seed gives another score. So two methods are
compared by the mean difference of their runs, with an interval that says which true
differences these runs leave possible. :func:`difference` computes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Difference", "difference"]

_REGROUPINGS = 200_000  # ten runs against ten are 184,756


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A mean difference between runs, second minus first, and how sure it is.

    ``low`` and ``high`` bound its 95 % interval, ``p`` is that of a permutation test,
    and ``n`` counts the runs of each side. Its text always has all of them:

    >>> print(Difference(mean=0.84, low=0.42, high=1.26, p=0.008, n=(5, 5)))
    +0.84 [0.42, 1.26], n = 5 and 5, p = .008
    """

    mean: float
    low: float
    high: float
    p: float
    n: tuple[int, int]
    paired: bool = False

    @property
    def excludes_zero(self) -> bool:
        """Tell whether zero lies outside the interval, so that the means differ."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        first, second = self.n
        runs = f"{first} pairs" if self.paired else f"{first} and {second}"
        p = f"{self.p:.3f}" if self.p < 0.01 else f"{self.p:.3g}"
        shown = "p < .001" if self.p < 0.001 else f"p = {p.removeprefix('0')}"
        interval = f"[{self.low:.2f}, {self.high:.2f}]"
        return f"{self.mean:+.2f} {interval}, n = {runs}, {shown}"


def difference(
    first: Sequence[float], second: Sequence[float], *, paired: bool = False
) -> Difference:
    """Compare two sets of runs: their mean difference, and how sure it is.

    ``first`` and ``second`` are one number a training run, and the difference is second
    minus first. The 95 % interval is Student's on the differences of the pairs if
    ``paired``, else Welch's, which does not assume that both sides spread alike. Pair
    runs that share their luck, such as two modules trained on one front end, or from
    one seed that draws the same start and the same batches for both: what they share
    cancels.

    The p is that of an exact permutation test, two-sided: how often a difference as
    large arises if the labels "first" and "second" are dealt at random,
    within each pair or over all runs. It cannot fall below 2/2ⁿ with n pairs: .25 with
    three, .0625 with five. Unpaired, three runs against three reach .1, five against
    five 2/252 = .008. Beyond 200,000 ways to deal, it comes from that many random ones.

    Runs are what is counted, not pictures: the frames of one drive see one street, and
    all of them are scored with one network. Runs that do not spread at all give an
    interval without width. Raises ValueError for fewer than two runs on a side, values
    that are not finite, and pairs of unequal number.

    >>> before, after = [70.1, 70.9, 71.4], [70.8, 71.7, 71.9]
    >>> print(difference(before, after))
    +0.67 [-0.75, 2.08], n = 3 and 3, p = .3
    >>> print(difference(before, after, paired=True))
    +0.67 [0.29, 1.05], n = 3 pairs, p = .25
    """
    from scipy.stats import t as student  # comes with the extra [train]

    one, other = (np.asarray(runs, dtype=float) for runs in (first, second))
    _check(one, other, paired)
    if paired:
        error = _squared_error(other - one) ** 0.5
        freedom = len(one) - 1.0
    else:
        parts = [_squared_error(runs) for runs in (one, other)]
        error = sum(parts) ** 0.5
        sizes = (len(one), len(other))
        below = sum(part**2 / (n - 1) for part, n in zip(parts, sizes, strict=True))
        freedom = error**4 / below if below else 1.0
    mean = float(other.mean() - one.mean())
    half = float(student.ppf(0.975, freedom)) * error
    return Difference(
        mean=mean,
        low=mean - half,
        high=mean + half,
        p=_permutation_p(one, other, paired),
        n=(len(one), len(other)),
        paired=paired,
    )


def _check(one: NDArray[Any], other: NDArray[Any], paired: bool) -> None:
    for runs in (one, other):
        if runs.ndim != 1 or len(runs) < 2:
            raise ValueError(
                f"each side needs a list of at least two runs, got {runs.tolist()}"
            )
        if not np.isfinite(runs).all():
            raise ValueError(f"all runs must be finite numbers, got {runs.tolist()}")
    if paired and len(one) != len(other):
        raise ValueError(
            f"pairs need as many runs on each side, got {len(one)} and {len(other)}"
        )


def _squared_error(runs: NDArray[Any]) -> float:
    """Return the squared standard error of the mean of runs (n,)."""
    return float(runs.var(ddof=1) / len(runs))


def _permutation_p(one: NDArray[Any], other: NDArray[Any], paired: bool) -> float:
    from scipy.stats import permutation_test

    # Deals that are equal must not differ by a rounding error, so the differences are
    # brought to the scale of 1, and rounded.
    scale = float(np.ptp(np.concatenate([one, other]))) or 1.0

    def gap(first: NDArray[Any], second: NDArray[Any], axis: int) -> NDArray[Any]:
        result: NDArray[Any] = first.mean(axis) - second.mean(axis)
        return (result / scale).round(9)

    test = permutation_test(
        (other, one),
        gap,
        permutation_type="samples" if paired else "independent",
        n_resamples=_REGROUPINGS,
        random_state=0,
    )
    return float(test.pvalue)
