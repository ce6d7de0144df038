"""The win-rate that is left when both answers are equally long.

Judges like long answers, and a model learns that quickly. As in AlpacaEval 2 (Dubois et al., arXiv 2404.04475) the
result of each comparison is explained by the model and by the difference in length; the rate is read where that
difference is zero.

Left out on purpose: the difficulty of a prompt (AlpacaEval estimates it from many models; here there are two), and what
length cannot explain: a candidate whose *every* answer is longer has no comparison near zero, and its interval says so.
"""

import math
import warnings
from collections.abc import Hashable, Sequence

import numpy as np
import statsmodels.api as sm
from numpy.typing import ArrayLike
from scipy import special, stats
from statsmodels.tools.sm_exceptions import PerfectSeparationWarning

from ftlib import paired
from ftlib.gates import Interval


def word_counts(texts: Sequence[str]) -> np.ndarray:
    """Words of each text, shape (len(texts),)."""
    return np.array([len(text.split()) for text in texts], dtype=float)


def length_controlled_win_rate(
    scores: ArrayLike,
    baseline_lengths: ArrayLike,
    candidate_lengths: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
) -> tuple[float, Interval]:
    """The candidate's win-rate at equal length, from a logistic model with length as its second cause.

    logit P(win) = a + b · tanh(d / sd(d)), where d is the candidate's words minus the baseline's; the rate is
    1 / (1 + exp(-a)). Two pseudo-comparisons, ties at d = ±sd, keep the fit finite where length decides everything.

    Args:
        scores: 1 a win, 0.5 a tie, 0 a loss, shape (n,).
        baseline_lengths, candidate_lengths: words (or tokens) of the answers, shape (n,).
        clusters: of each comparison, where several prompts are wordings of one request: the interval is then wider,
            and has no bound where they are all of one cluster.
        strata: of each comparison, as in `paired.design_effect`.

    Returns:
        (rate, interval), from a sandwich variance, so that ties and a model that does not fit do no harm.

    Raises:
        ValueError: fewer than three comparisons, lengths that differ in number, or a score outside [0, 1].
    """
    scores_N = np.asarray(scores, dtype=float)
    gap_N = np.asarray(candidate_lengths, dtype=float) - np.asarray(baseline_lengths, dtype=float)
    if scores_N.ndim != 1 or scores_N.shape != gap_N.shape or scores_N.size < 3:
        raise ValueError(f"expected three or more scores with two lengths each, got {scores_N.shape}, {gap_N.shape}")
    if not np.isfinite(gap_N).all() or not ((scores_N >= 0) & (scores_N <= 1)).all():
        raise ValueError("expected finite lengths and scores within [0, 1]; 1 is a win of the candidate")
    spread = float(gap_N.std())
    length_N = np.tanh(gap_N / spread) if spread else np.zeros_like(gap_N)
    y_M = np.concatenate([scores_N, [0.5, 0.5]])
    x_M = np.concatenate([length_N, np.tanh([1.0, -1.0])])
    with warnings.catch_warnings():  # all won or all lost: the pseudo-comparisons keep the fit finite
        warnings.simplefilter("ignore", PerfectSeparationWarning)
        fit = sm.GLM(y_M, sm.add_constant(x_M), family=sm.families.Binomial()).fit(cov_type="HC1")
    a, error = float(fit.params[0]), float(fit.bse[0])
    reach = stats.norm.isf((1 - confidence) / 2) * error
    if clusters is not None:
        # What each comparison does to a; the sandwich sums their squares, as if none knew of another.
        pull_N = (((y_M - fit.fittedvalues)[:, None] * sm.add_constant(x_M)) @ fit.normalized_cov_params[0])[:-2]
        free = paired.degrees_of_freedom(clusters, strata)
        if not free:
            return float(special.expit(a)), Interval(0.0, 1.0)
        error *= math.sqrt(paired.design_effect(pull_N, clusters, strata=strata))
        reach = stats.t.isf((1 - confidence) / 2, free) * error
    if not math.isfinite(reach):
        raise ValueError("the model of wins and lengths has no solution; look at the lengths, are they all alike?")
    return float(special.expit(a)), Interval(float(special.expit(a - reach)), float(special.expit(a + reach)))
