"""From shadow to canary to everyone, or back: who gets the candidate, whose failures they are, and when it stops.

The test is for traffic that is watched after every request. Users are split by a hash, so a failure falls on the
candidate with the probability of its share of traffic when both are alike. Each failing user is then a coin whose odds
are known, and the product of likelihood ratios is an e-process: under "no worse" it reaches 1/alpha with a
probability of alpha at most, however often one looks (Ville's inequality; Ramdas et al. 2023, arXiv 2210.01948). The
failure rate itself may drift with the hour: only the odds count.

Left out on purpose: serving (`serve`), and any wish to be told that the candidate is better. The canary looks for harm.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

RUNNING, HELD, ROLLED_BACK, PROMOTED = "running", "held", "rolled_back", "promoted"
_BY_HAND = {  # what a person may do -> what the decision is called, the state after it, the states that allow it
    "hold": ("held", HELD, (RUNNING,)),
    "go_on": ("went on", RUNNING, (HELD,)),
    "roll_back": ("rolled back", ROLLED_BACK, (RUNNING, HELD, PROMOTED)),
}


def bucket(user: str, *, salt: str) -> float:
    """A user's place in [0, 1): the same at every request, and unrelated between two salts."""
    digest = hashlib.sha256(f"{salt}:{user}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


@dataclasses.dataclass(frozen=True)
class Guardrail:
    """One harm to watch for, as an event that a request has or has not.

    Attributes:
        name: the key of the event in `Canary.record`.
        alpha: chance of a false alarm over the whole rollout. 0: not a test but a tripwire, one event stops.
        ratios: how many times the baseline's rate a bad candidate might have; the evidence is the mean over them.
    """

    name: str
    alpha: float = 0.05
    ratios: tuple[float, ...] = (1.5, 2.0, 4.0)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The stages of a rollout, fixed before it starts.

    Attributes:
        shares: the candidate's share of traffic in each stage, rising, the last one 1.
        requests: requests (of both models) that a stage lasts at least; the last one's may be 0.
        guardrails: their alphas add up to the chance of a false alarm.
        salt: of the split; another rollout takes another salt, or the same users get every experiment.

    Raises:
        ValueError: a plan that cannot be followed.
    """

    shares: tuple[float, ...] = (0.01, 0.05, 0.25, 0.5, 1.0)
    requests: tuple[int, ...] = (2_000, 32_000, 8_000, 8_000, 0)
    guardrails: tuple[Guardrail, ...] = (Guardrail("failed"),)
    salt: str = "rollout"

    def __post_init__(self):
        rising = all(low < high for low, high in zip(self.shares, self.shares[1:], strict=False))
        if not self.shares or not rising or self.shares[0] <= 0 or self.shares[-1] != 1:
            raise ValueError(f"shares: expected rising shares above 0 that end at 1, got {self.shares}")
        if len(self.requests) != len(self.shares) or min(self.requests) < 0:
            raise ValueError(f"requests: expected {len(self.shares)} counts, one a stage, got {self.requests}")
        names = [rail.name for rail in self.guardrails]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"guardrails: expected one or more, each name once, got {names}")
        for rail in self.guardrails:
            if not 0 <= rail.alpha < 1 or not rail.ratios or min(rail.ratios) <= 1:
                raise ValueError(f"guardrail {rail.name!r}: expected alpha in [0, 1) and ratios above 1, got {rail}")
        if self.alpha >= 1:
            raise ValueError(f"guardrails: expected alphas that add up to less than 1, got {self.alpha:g}")

    @property
    def alpha(self) -> float:
        """Chance that a candidate no worse than the baseline is stopped, at most (tripwires apart)."""
        return sum(rail.alpha for rail in self.guardrails)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "Plan":
        """A plan from JSON (see `dataclasses.asdict`).

        Raises:
            ValueError: an unknown field, or a plan that cannot be followed.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if set(given) - known:
            raise ValueError(f"plan: unknown fields {sorted(set(given) - known)}; known: {sorted(known)}")
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        if "guardrails" in values:
            rails = [dict(rail) | {"ratios": tuple(rail["ratios"])} for rail in values["guardrails"]]
            values["guardrails"] = tuple(Guardrail(**rail) for rail in rails)
        return cls(**values)


def log_evidence(share: float, *, of_candidate: bool, ratio: float) -> float:
    """What one failing user says: log of "the candidate fails `ratio` times as often" over "alike", in nats.

    With share w and ratio r the failure is the candidate's with odds r·w : (1 - w) instead of w : (1 - w).

    Example:
        >>> round(math.exp(log_evidence(0.5, of_candidate=True, ratio=2.0)), 4)  # (2/3) / (1/2)
        1.3333
    """
    total = ratio * share + 1 - share
    return math.log(ratio / total if of_candidate else 1 / total)


class Evidence:
    """The e-process of one guardrail. Each user counts once: two failures of one user are one coin, not two."""

    def __init__(self, rail: Guardrail):
        self.rail = rail
        self.failed = {"baseline": 0, "candidate": 0}
        self._log_e = np.zeros(len(rail.ratios))
        self._users: set[str] = set()

    def add(self, user: str, *, share: float, of_candidate: bool) -> float:
        """Count a user's failure.

        Args:
            share: the candidate's share of traffic at that request. At 0 and at 1 there is nobody to compare with.

        Returns:
            The evidence so far: 1 says nothing, 1/alpha stops.
        """
        if user not in self._users:
            self._users.add(user)
            self.failed["candidate" if of_candidate else "baseline"] += 1
            if 0 < share < 1:
                self._log_e += [log_evidence(share, of_candidate=of_candidate, ratio=r) for r in self.rail.ratios]
        return self.value

    @property
    def value(self) -> float:
        """The evidence so far, the mean over the ratios."""
        return float(np.exp(self._log_e).mean())

    @property
    def alarm(self) -> bool:
        """Whether this guardrail stops the candidate."""
        if self.rail.alpha == 0:
            return self.failed["candidate"] > 0
        return self.value >= 1 / self.rail.alpha


class Canary:
    """The state of one rollout: a pure function of what was recorded, so that a log replayed gives it back.

    Attributes:
        state: "running", "held" (share stays), "rolled_back" or "promoted".
        stage: number of the stage, from 0.
        decisions: [{"request", "what", "stage", "why"}], in order.
    """

    def __init__(self, plan: Plan):
        self.plan, self.state, self.stage = plan, RUNNING, 0
        self.requests = 0  # of both models, in all
        self.spent = 0  # of these, to the candidate
        self.in_stage = 0
        self.evidence = {rail.name: Evidence(rail) for rail in plan.guardrails}
        self.decisions: list[dict] = []

    @property
    def share(self) -> float:
        """The candidate's share of traffic now."""
        return 0.0 if self.state == ROLLED_BACK else self.plan.shares[self.stage]

    def arm(self, user: str) -> str:
        """ "baseline" or "candidate" for a user. A higher share keeps those who have the candidate already."""
        return "candidate" if bucket(user, salt=self.plan.salt) < self.share else "baseline"

    def record(self, user: str, *, arm: str, share: float, events: Iterable[str]) -> list[dict]:
        """Count one answered request.

        Args:
            arm: which model was asked, as `arm` said when the request came.
            share: `share` at that moment: requests may overlap a change of stage.
            events: names of the guardrails whose event this request had.

        Returns:
            The decisions that follow from it, most often none.

        Raises:
            ValueError: an event that no guardrail watches, or an unknown arm.
        """
        events = set(events)
        if events - self.evidence.keys() or arm not in ("baseline", "candidate"):
            raise ValueError(
                f"expected an arm and events of {sorted(self.evidence)}, got {arm!r} with {sorted(events)}; "
                "add a guardrail for it to the plan"
            )
        before = len(self.decisions)
        self.requests += 1
        self.in_stage += 1
        self.spent += arm == "candidate"
        for name in sorted(events):
            self.evidence[name].add(user, share=share, of_candidate=arm == "candidate")
        alarms = [name for name in sorted(events) if self.evidence[name].alarm]
        if alarms and self.state != ROLLED_BACK:
            why = "; ".join(self._why(name) for name in alarms)
            self._decide("rolled back", why, ROLLED_BACK)
        elif self.state == RUNNING and self.in_stage >= self.plan.requests[self.stage]:
            self._next_stage()
        return self.decisions[before:]

    def hold(self, why: str) -> None:
        """Keep the share as it is until `go_on`; alarms still roll back."""
        self._manual("hold", why)

    def go_on(self, why: str) -> None:
        """End a hold."""
        self._manual("go_on", why)

    def roll_back(self, why: str) -> None:
        """Everyone gets the baseline, at once and for good; a mended candidate is another rollout."""
        self._manual("roll_back", why)

    def check(self, do: str, why: str) -> None:
        """Refuse what a person may not do now; changes nothing.

        Args:
            do: "hold", "go_on" or "roll_back".
            why: the reason that it would be done with.

        Raises:
            ValueError: another word, no reason, or not possible in this state.
        """
        if do not in _BY_HAND:
            raise ValueError(f"expected {', '.join(list(_BY_HAND)[:-1])} or {list(_BY_HAND)[-1]}, got {do!r}")
        what, _, allowed = _BY_HAND[do]
        if self.state not in allowed:
            raise ValueError(f"expected a rollout that is {' or '.join(allowed)} to be {what}, it is {self.state}")
        if not why.strip():
            raise ValueError(f"expected a reason in words for {what!r}; it goes into the log")

    def status(self) -> dict[str, Any]:
        """The state for a person or a machine."""
        return {
            "state": self.state,
            "stage": self.stage,
            "share": self.share,
            "requests": self.requests,
            "candidate_requests": self.spent,
            "requests_in_stage": self.in_stage,
            "guardrails": [
                {"name": name, "alpha": e.rail.alpha, "evidence": e.value, **e.failed, "alarm": e.alarm}
                for name, e in self.evidence.items()
            ],
            "decisions": self.decisions,
        }

    def _next_stage(self) -> None:
        last = len(self.plan.shares) - 1
        if self.stage < last:
            self.stage += 1
            self.in_stage = 0
            share = self.plan.shares[self.stage]
            self._decide(f"stage {self.stage}", f"no alarm; {share:.0%} of users", PROMOTED if share == 1 else RUNNING)

    def _manual(self, do: str, why: str) -> None:
        self.check(do, why)
        what, state, _ = _BY_HAND[do]
        self._decide(what, why, state)

    def _why(self, name: str) -> str:
        seen = self.evidence[name]
        users = f"{seen.failed['candidate']} users of the candidate, {seen.failed['baseline']} of the baseline"
        if seen.rail.alpha == 0:
            return f"{name}: {users}; one was enough"
        return f"{name}: {users}; evidence {seen.value:.1f}, {1 / seen.rail.alpha:.0f} stops"

    def _decide(self, what: str, why: str, state: str) -> None:
        self.state = state
        self.decisions.append({"request": self.requests, "what": what, "stage": self.stage, "why": why})


@dataclasses.dataclass(frozen=True)
class Simulated:
    """Runs of a rollout on paper, one entry a run, shape (R,).

    Attributes:
        stopped_at: the request at which it was rolled back; 0 where it was not.
        stage: the stage at that moment; -1 where it was not.
        spent: requests that the candidate had got by then (or by the end of the plan).
        share_spent: `spent` over all requests of the plan, 0..1.
    """

    stopped_at: np.ndarray
    stage: np.ndarray
    spent: np.ndarray
    share_spent: np.ndarray

    @property
    def stopped(self) -> np.ndarray:
        """Whether each run was rolled back, shape (R,)."""
        return self.stopped_at > 0


def simulate(
    plan: Plan,
    *,
    baseline: Mapping[str, float],
    candidate: Mapping[str, float],
    runs: int,
    seed: int,
    every: int = 1,
) -> Simulated:
    """Roll out on paper, many times: each request another user, events independent.

    Args:
        baseline, candidate: rate of each guardrail's event, 0..1.
        every: look after so many requests only; 1 looks at each.

    Raises:
        ValueError: a guardrail without a rate.
    """
    names = [rail.name for rail in plan.guardrails]
    if set(baseline) != set(names) or set(candidate) != set(names):
        raise ValueError(f"expected a rate for each of {names}, got {sorted(baseline)} and {sorted(candidate)}")
    share_T = np.repeat(plan.shares, plan.requests)  # the last stage has no control group: nothing is tested there
    stage_T = np.repeat(np.arange(len(plan.shares)), plan.requests)
    rng = np.random.default_rng(seed)
    rows = [_one_run(plan, share_T, baseline, candidate, rng, every) for _ in range(runs)]
    stopped, spent = (np.array(column) for column in zip(*rows, strict=True))
    stage = np.where(stopped > 0, stage_T[np.maximum(stopped, 1) - 1], -1)
    return Simulated(stopped, stage, spent, spent / len(share_T))


def _one_run(plan, share_T, baseline, candidate, rng, every) -> tuple[int, int]:
    mine_T = rng.random(len(share_T)) < share_T
    stopped = len(share_T) + 1
    for rail in plan.guardrails:
        rate_T = np.where(mine_T, candidate[rail.name], baseline[rail.name])
        (at_F,) = np.nonzero(rng.random(len(share_T)) < rate_T)
        if rail.alpha == 0:
            hits = at_F[mine_T[at_F]]
        else:
            w_F, mine_F = share_T[at_F], mine_T[at_F]
            r_R1 = np.array(rail.ratios)[:, None]
            with np.errstate(divide="ignore"):
                steps_RF = np.log(np.where(mine_F, r_R1, 1.0) / (r_R1 * w_F + 1 - w_F))
            evidence_F = np.exp(np.where(w_F < 1, steps_RF, 0.0).cumsum(axis=1)).mean(axis=0)
            hits = at_F[evidence_F >= 1 / rail.alpha]
            if every > 1:  # what stands at each look, not in between
                looks = np.arange(every, len(share_T) + 1, every)
                last = np.searchsorted(at_F, looks) - 1
                hits = looks[(last >= 0) & (evidence_F[np.maximum(last, 0)] >= 1 / rail.alpha)] - 1
        if hits.size:
            stopped = min(stopped, int(hits[0]) + 1)
    seen = min(stopped, len(share_T))
    return (0 if stopped > len(share_T) else stopped), int(mine_T[:seen].sum())
