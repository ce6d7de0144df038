"""What logged rollouts say before anything is trained online: which cases can teach, how good another policy is, and
how far it is from the one that wrote the log.

Left out on purpose: per-step corrections and doubly robust estimates. A case at the desk takes two or three calls, and
no model of its value is at hand that one would trust.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ftlib.gates import Interval, wilson
from ftlib.looks import mean_above

if TYPE_CHECKING:
    from ftlib.tree import Tree

BAND = (0.2, 0.8)
ROLLOUTS_A_PASS = 64  # scored together: what they share is read once
EDGE = 0.25  # logits: a token so near to the last of the top k counts as one of them; two passes in bf16 differ by that

Turns = Sequence[tuple[Sequence[int], Sequence[int]]]  # of one rollout: token ids of each prompt and its answer
Turn = tuple[tuple[int, ...], tuple[int, ...]]


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that at least one of k rollouts succeeds, from n rollouts of which c did (Chen et al. 2021,
    arXiv 2107.03374, eq. 1): 1 - C(n - c, k) / C(n, k). Unbiased, which 1 - (1 - c/n)^k is not.

    Raises:
        ValueError: not 1 <= k <= n, or c outside 0..n.

    Example:
        >>> pass_at_k(4, 1, 2)  # of the 6 pairs, 3 hold the one that succeeded
        0.5
    """
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"expected 1 <= k <= n and 0 <= c <= n, got n={n}, c={c}, k={k}")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def mixed_at_k(n: int, c: int, k: int) -> float:
    """Chance that k rollouts hold a success and a failure, so that a GRPO group of k has something to compare.

    Example:
        >>> round(mixed_at_k(4, 1, 2), 2)  # 3 of 6 pairs
        0.5
    """
    return pass_at_k(n, c, k) - math.comb(c, k) / math.comb(n, k)


def sort_cases(success_PG: ArrayLike, *, band: tuple[float, float] = BAND) -> dict[str, list[int]]:
    """Which cases can teach: those that succeed sometimes.

    Args:
        success_PG: 0 or 1, shape (P, G): P cases, G rollouts each.
        band: shares of success, ends included, that count as "teaches".

    Returns:
        "too hard", "teaches" and "too easy" -> numbers of the cases.

    Raises:
        ValueError: another shape, values other than 0 and 1, or a band that is none.
    """
    done_PG = np.asarray(success_PG, dtype=float)
    low, high = band
    if done_PG.ndim != 2 or 0 in done_PG.shape or not np.isin(done_PG, (0, 1)).all() or not 0 <= low <= high <= 1:
        raise ValueError(
            f"expected 0 and 1 in shape (cases, rollouts) and a band in [0, 1], got {done_PG.shape}, {band}"
        )
    share_P = done_PG.mean(axis=1)
    names = np.where(share_P < low, "too hard", np.where(share_P > high, "too easy", "teaches"))
    return {name: np.flatnonzero(names == name).tolist() for name in ("too hard", "teaches", "too easy")}


def pick_cases(
    success_PG: ArrayLike, kinds: Sequence[str], *, want: int, band: tuple[float, float] = BAND
) -> list[int]:
    """The cases to train on: of each kind as many, first those that can teach, then those nearest to half.

    A kind whose cases are all too easy or too hard keeps its places, so that no step pays for one action more than for
    another.

    Args:
        success_PG, band: as `sort_cases`.
        kinds: of each case, e.g. its right action.
        want: how many.

    Returns:
        Numbers of the cases, in the order that they came in: no part of a training then holds the best ones, and its
        last cases are like the others (06 tries those before training, and watches from there).

    Raises:
        ValueError: as `sort_cases`; not one kind a case, or fewer cases than are wanted.
    """
    teaches = set(sort_cases(success_PG, band=band)["teaches"])
    off_P = np.abs(np.asarray(success_PG, dtype=float).mean(axis=1) - 0.5)
    if len(kinds) != len(off_P) or not 0 < want <= len(off_P):
        raise ValueError(f"expected a kind a case and 1 to {len(off_P)} wanted, got {len(kinds)} kinds and {want}")
    queues: dict[str, list[int]] = {}
    for n in sorted(range(len(off_P)), key=lambda n: 0.0 if n in teaches else float(off_P[n])):
        queues.setdefault(kinds[n], []).append(n)
    rounds = range(max(map(len, queues.values())))
    return sorted([queue[i] for i in rounds for queue in queues.values() if i < len(queue)][:want])


@dataclass(frozen=True)
class OffPolicy:
    """What a log of one policy says about another.

    Attributes:
        value: self-normalised importance-sampling estimate of the mean reward.
        interval: of it, 95 %, by the delta method.
        lower: one-sided 95 % lower bound that assumes nothing about the weights.
        n: logged rollouts.
        effective_n: rollouts drawn from the target that would say as much, (sum w)^2 / sum w^2 (Kish).
        mean_weight: 1 but for chance. Far below 1, the target goes where the log has not been.
        plain: ordinary importance-sampling estimate, mean of w r: unbiased, may exceed 1, and swings with the weights.
    """

    value: float
    interval: Interval
    lower: float
    n: int
    effective_n: float
    mean_weight: float
    plain: float


def off_policy(
    rewards: ArrayLike, behaviour_logp: ArrayLike, target_logp: ArrayLike, *, clip: float = 10.0
) -> OffPolicy:
    """How well a target policy would do, from rollouts that a behaviour policy made.

    Each rollout counts w = p(rollout | target) / p(rollout | behaviour). The estimate is sum w r / sum w (Swaminathan
    and Joachims 2015, NeurIPS 28, "self-normalized"); its interval is Student's over the linearised ratio (Owen,
    Monte Carlo theory, methods and examples, section 9.2), and holds while effective_n is not small. Where all that
    counts has one reward it would have no width, so there it is Wilson's for effective_n rollouts. The lower bound is
    conservative: weights are cut at `clip`, which can only lower the mean of w r for r >= 0 (Thomas et al. 2015, AAAI,
    "High-confidence off-policy evaluation"), and that mean is bounded by betting (`looks.mean_above`).

    Args:
        rewards: of each logged rollout, in [0, 1], shape (n,), in an order that does not depend on them.
        behaviour_logp: log-probability of all that the policy wrote in it, as it was sampled (temperature, top-k).
        target_logp: the same under the target. -inf: the target would never write it.
        clip: fixed before the log is seen. Larger is less conservative on average and wider.

    Raises:
        ValueError: fewer than 2 rollouts, other shapes, rewards outside [0, 1], a rollout that the behaviour policy
            cannot have made, no rollout that the target would make, or clip < 1.
    """
    r_N, b_N, t_N = (np.asarray(values, dtype=float) for values in (rewards, behaviour_logp, target_logp))
    if r_N.ndim != 1 or r_N.size < 2 or not r_N.shape == b_N.shape == t_N.shape:
        raise ValueError(f"expected three lists of one length >= 2, got shapes {r_N.shape}, {b_N.shape}, {t_N.shape}")
    if not (np.isfinite(r_N).all() and r_N.min() >= 0 and r_N.max() <= 1 and clip >= 1):
        raise ValueError(f"expected rewards in [0, 1] and clip >= 1, got {r_N.min():g}..{r_N.max():g} and {clip:g}")
    if not np.isfinite(b_N).all() or np.isnan(t_N).any() or t_N.max() in (np.inf, -np.inf):
        raise ValueError(
            "expected finite log-probabilities (the target's may be -inf for some rollouts); score them again"
        )
    w_N = np.exp(t_N - b_N)
    share_N = np.exp(t_N - b_N - (t_N - b_N).max())  # the same up to a factor, where all weights are near 0 too
    share_N /= share_N.sum()
    value = min(1.0, float((share_N * r_N).sum()))
    spread = math.sqrt(float((share_N**2 * (r_N - value) ** 2).sum()))
    half = float(stats.t.ppf(0.975, r_N.size - 1)) * spread
    effective_n = max(1.0, 1 / float((share_N**2).sum()))
    ends = Interval(max(0.0, value - half), min(1.0, value + half))
    if np.ptp(r_N[share_N > 0]) == 0:
        ends = wilson(value * effective_n, effective_n)
    return OffPolicy(
        value=value,
        interval=ends,
        lower=clip * mean_above(np.minimum(w_N, clip) * r_N / clip),
        n=r_N.size,
        effective_n=effective_n,
        mean_weight=float(w_N.mean()),
        plain=float((w_N * r_N).mean()),
    )


def log_likelihoods(model, rollouts: Sequence[Turns], *, temperature: float = 1.0, top_k: int = 50) -> np.ndarray:
    """How likely a model is to write all that was written in each rollout, drawn as `generate.sample` draws it.

    What the desk said is given, so only the model's own tokens count. Rollouts begin alike, so they are read as one
    tree (`tree`), in one pass for every 64 of them.

    Args:
        model: a causal LM as it is sampled from; `generate.MergedCopy` has one while an adapter trains.
        rollouts: turns of each, as `desk.rollouts(turns=…)` collects them.
        temperature, top_k: as sampled; temperature above 0. A top_k of the whole vocabulary cuts nothing off.

    Returns:
        Natural logs, shape (N,). -inf: a token is not among the top k, so the model would never write it.

    Raises:
        ValueError: no rollout, one without a turn, an option out of its range, or a model whose attention or head this
            room does not know.
    """
    _check(rollouts, model)
    if temperature <= 0 or top_k < 1:
        raise ValueError(f"expected temperature > 0 and top_k >= 1, got {temperature} and {top_k}")
    found = np.empty(len(rollouts))
    for places, turns, laid in _passes(rollouts):
        of_turn = dict(zip(turns, _log_probs(model, turns, laid, temperature, top_k), strict=True))
        found[places] = [sum(of_turn[turn] for turn in _written(rollouts[n])) for n in places]
    return found


def kl_from(policy, reference, rollouts: Sequence[Turns]) -> tuple[np.ndarray, np.ndarray]:
    """How far a policy is from a reference where rollouts have been: KL(policy || reference) at each written token.

    The KL of each next-token distribution is worked out over the whole vocabulary, at temperature 1 and before top-k,
    so it is never negative and needs no draw of the token (unlike k1 and k3, `train.kl_on_samples`). On rollouts of
    `policy` itself the mean of `nats` is an unbiased estimate of the KL between whole rollouts (chain rule). On the
    reference's own log it says how far the policy has moved where the log has been, not where else it goes.

    Args:
        policy, reference: causal LMs with one vocabulary.
        rollouts: turns of each, as `desk.rollouts(turns=…)` collects them.

    Returns:
        (nats, tokens), both of shape (N,): the sum over a rollout's written tokens, and how many they are. The KL a
        token is nats.sum() / tokens.sum().

    Raises:
        ValueError: as `log_likelihoods`.
    """
    for model in (policy, reference):
        _check(rollouts, model)
    nats_N = np.empty(len(rollouts))
    for places, turns, laid in _passes(rollouts):
        of_turn = dict(zip(turns, _kl_sums(policy, reference, turns, laid), strict=True))
        nats_N[places] = [sum(of_turn[turn] for turn in _written(rollouts[n])) for n in places]
    return nats_N, np.array([sum(len(answer) for _, answer in rollout) for rollout in rollouts], dtype=float)


def _check(rollouts: Sequence[Turns], model) -> None:
    from ftlib.lean import HEAD_SCALES

    if not rollouts or not all(rollouts):
        raise ValueError(
            f"expected one or more rollouts with a turn each, got {[len(turns) for turns in rollouts]} turns"
        )
    scaled = [name for name in HEAD_SCALES if getattr(model.config.get_text_config(), name, None)]
    if scaled:
        raise ValueError(f"{type(model).__name__} scales its logits ({scaled[0]}): score it with its own forward pass")


def _written(rollout: Turns) -> list[Turn]:
    """The turns in which something was written."""
    return [(tuple(prompt), tuple(answer)) for prompt, answer in rollout if len(answer)]


def _passes(rollouts: Sequence[Turns]) -> Iterator[tuple[list[int], list[Turn], "Tree"]]:
    """Portions that are read together: the places of their rollouts, their turns (each once), and the tree of these."""
    from ftlib.tree import Tree

    order = sorted(range(len(rollouts)), key=lambda n: tuple(rollouts[n][0][0]))  # those of one case side by side
    for start in range(0, len(order), ROLLOUTS_A_PASS):
        places = order[start : start + ROLLOUTS_A_PASS]
        turns = list(dict.fromkeys(turn for n in places for turn in _written(rollouts[n])))
        # The last token of an answer predicts nothing, so it need not be read.
        texts = [(*prompt, *answer[:-1]) for prompt, answer in turns]
        yield places, turns, Tree.of_texts(texts, [range(len(p) - 1, len(p) + len(a) - 1) for p, a in turns])


def _by_turn(values, turns: Sequence[Turn]) -> list[float]:
    """Values of all written tokens, one after the other, summed turn by turn."""
    ends = np.cumsum([len(answer) for _, answer in turns])
    return [float(part.sum()) for part in np.split(values.double().cpu().numpy(), ends[:-1])]


def _log_probs(model, turns: Sequence[Turn], laid: "Tree", temperature: float, top_k: int) -> list[float]:
    import torch

    from ftlib import tree
    from ftlib.lean import HEAD_ROWS

    targets = torch.tensor([token for _, answer in turns for token in answer], device=model.device)
    logp = torch.empty(len(targets))
    with torch.inference_mode(), tree.attention(model):
        hidden = laid.hidden(model.get_decoder())
        for start in range(0, len(targets), HEAD_ROWS):
            rows = slice(start, start + HEAD_ROWS)
            logits = model.get_output_embeddings()(hidden[rows]).float() / temperature  # (rows, V)
            at_target = logits.gather(-1, targets[rows, None])[:, 0]
            whole = top_k >= logits.shape[-1]  # nothing to sort
            kept = logits if whole else logits.topk(top_k, dim=-1).values
            least = -math.inf if whole else kept[:, -1] - EDGE
            drawn = at_target - kept.logsumexp(-1)
            logp[rows] = drawn.masked_fill(at_target < least, -math.inf).cpu()
    return _by_turn(logp, turns)


def _kl_sums(policy, reference, turns: Sequence[Turn], laid: "Tree") -> list[float]:
    import torch

    from ftlib import tree
    from ftlib.lean import HEAD_ROWS

    models, hidden = (policy, reference), []
    with torch.inference_mode():
        for model in models:
            with tree.attention(model):
                hidden.append(laid.hidden(model.get_decoder()))  # (S, H)
        kl_S = torch.empty(len(hidden[0]))
        for start in range(0, len(kl_S), HEAD_ROWS):
            rows = slice(start, start + HEAD_ROWS)
            p, q = (
                model.get_output_embeddings()(of[rows]).float().log_softmax(-1)  # (rows, V)
                for model, of in zip(models, hidden, strict=True)
            )
            kl_S[rows] = (p.exp() * (p - q)).sum(-1).cpu()
    return _by_turn(kl_S, turns)


class RolloutLog:
    """Rollouts of one policy, kept so that another can be judged by them before it acts.

    Args:
        cases: id of each rollout's case.
        rewards: of each, in [0, 1]; e.g. 1 for success.
        turns: of each (`desk.rollouts(turns=…)`).
        behaviour_logp: of each, by `log_likelihoods` under the policy that made them.

    Raises:
        ValueError: lists of several lengths.
    """

    def __init__(
        self, cases: Sequence[str], rewards: Sequence[float], turns: Sequence[Turns], behaviour_logp: Sequence[float]
    ):
        if len({len(of) for of in (cases, rewards, turns, behaviour_logp)}) != 1:
            raise ValueError(
                "expected a case, a reward, turns and a log-likelihood for each rollout, got "
                f"{len(cases)}, {len(rewards)}, {len(turns)} and {len(behaviour_logp)}"
            )
        self.cases, self.rewards, self.turns = list(cases), list(rewards), list(turns)
        self.behaviour_logp = [float(value) for value in behaviour_logp]

    def ask(self, model, cases: Iterable[str], **options) -> dict[int, float]:
        """Number of each logged rollout on these cases -> how likely the model is to write it.

        Args:
            options: as `log_likelihoods` takes them.
        """
        wanted = set(cases)
        rows = [n for n, case in enumerate(self.cases) if case in wanted]
        if not rows:
            return {}
        return dict(zip(rows, log_likelihoods(model, [self.turns[n] for n in rows], **options).tolist(), strict=True))

    def estimate(self, *asked: Mapping[int, float]) -> OffPolicy:
        """What the log says of the policies that were asked, all taken together (`off_policy`).

        Args:
            asked: what `ask` returned, of policies that worked on different cases.
        """
        rows = [(n, logp) for one in asked for n, logp in one.items()]
        # The lower bound looks at every beginning of the list, so easy cases must not come first.
        rows = [rows[n] for n in np.random.default_rng(0).permutation(len(rows))]
        return off_policy(
            [self.rewards[n] for n, _ in rows], [self.behaviour_logp[n] for n, _ in rows], [logp for _, logp in rows]
        )
