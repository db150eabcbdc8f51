"""Early stopping of the trials of one study: synchronous successive halving (1502.07943).

All trials train to the first rung, the best of them to the next, and so on; the best at the last rung train to their
end. A rung is decided once all of its trials have arrived, so a decision depends on scores alone: not on the order in
which trials arrive, and not on kills. The pruners of Optuna and the schedulers of Ray Tune decide when a trial arrives.

Trials are compared by their newest scores. Those of weights as they are would mislead: a large learning rate makes them
jump in the middle of the training, and the jumps end as the rate decays. So a rung scores averaged weights
(`training.weight_average`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Rung(NamedTuple):
    """Where trials are compared."""

    share: float
    """Of a trial's optimizer steps."""
    keep: float
    """Share of the rung's trials that go on; the number is rounded up."""


RUNGS = (Rung(share=3 / 16, keep=1 / 2), Rung(share=7 / 16, keep=2 / 3))
"""Of `tune.early_stopping`. `benchmarks/RESULTS.md` has what they cost and which winners they find."""


@dataclass
class RankedTrial:
    """What is known of one trial."""

    id: str
    scores: list[float | None] = field(default_factory=list)
    """At the rungs so far, larger is better; None where the score is not finite."""
    finished: bool = False
    failed: bool = False

    @property
    def ended(self) -> bool:
        """Whether it has trained to its end, or cannot."""
        return self.finished or self.failed

    def score(self, rung: int) -> float | None:
        """The score at a rung; None if it has none there."""
        return self.scores[rung] if rung < len(self.scores) else None


def full_trainings(trials: int, rungs: Sequence[Rung]) -> float:
    """The training of a study's trials, in trainings to the end, if no two scores are equal and none fails."""
    done, before, left = 0.0, 0.0, trials
    for rung in rungs:
        done += left * (rung.share - before)
        before, left = rung.share, _kept(left, rung.keep)
    return done + left * (1.0 - before)


def _kept(trials: int, keep: float) -> int:
    """How many of the trials go on; a share such as 2/3 of 6 is a whole number in spite of rounding."""
    return math.ceil(keep * trials - 1e-9)


def go_on(scores: Sequence[float | None], keep: float) -> list[bool]:
    """Which trials of a rung go on: the best, and those whose score equals the last of them.

    A trial without a score goes on only if none has one.
    """
    known = sorted((score for score in scores if score is not None), reverse=True)
    if not known:
        return [True] * len(scores)
    last = known[min(_kept(len(scores), keep), len(known)) - 1]
    return [score is not None and score >= last for score in scores]


class Halving:
    """Which trials of a study train next, and how far.

    A trial that has ended before a rung, because it has failed or was finished earlier without pausing there, is not
    compared: it counts as one of the rung's trials, but takes no place among those that go on. If all that went on have
    failed, the best of the stopped trials takes their place.

    Args:
        trials: in the order in which they start, with what earlier launches have measured.
        rungs: by share; without any, all trials train to their end.
        on_stopped: called with the id of every trial that is stopped from now on.
    """

    def __init__(
        self,
        trials: Sequence[RankedTrial],
        rungs: Sequence[Rung] = (),
        on_stopped: Callable[[str], None] = lambda id: None,
    ) -> None:
        self._rungs = rungs
        self._trials = {trial.id: trial for trial in trials}
        self.stopped: list[str] = []
        """Ids of the trials that do not go on."""
        self._rung = 0
        """Number of the rung to which the members train; `len(rungs)` is their end."""
        self._members = list(trials)
        self._waiting: deque[str] = deque()
        self._running: set[str] = set()
        self._on_stopped: Callable[[str], None] = lambda id: None
        self._queue()
        self._decide()
        self._on_stopped = on_stopped

    @property
    def over(self) -> bool:
        """Whether every trial has ended or is stopped."""
        return not self._waiting and not self._running

    def take(self) -> tuple[str, int] | None:
        """The id of the next trial, and the number of the rung to which it trains; None if nothing waits."""
        if not self._waiting:
            return None
        id = self._waiting.popleft()
        self._running.add(id)
        return id, self._rung

    def arrive(self, id: str, score: float | None) -> None:
        """Records the score of a trial at its rung."""
        self._running.discard(id)
        self._trials[id].scores.append(score)
        self._decide()

    def finish(self, id: str) -> None:
        """Records that a trial has trained to its end."""
        self._running.discard(id)
        self._trials[id].finished = True
        self._decide()

    def fail(self, id: str) -> None:
        """Records that a trial has failed."""
        self._running.discard(id)
        self._trials[id].failed = True
        self._decide()

    def _decide(self) -> None:
        """Ends every rung at which all its trials have arrived."""
        while self._rung < len(self._rungs) and all(t.ended or self._has_score(t) for t in self._members):
            scores = [trial.score(self._rung) for trial in self._members]
            best = go_on(scores, self._rungs[self._rung].keep)
            out = [trial for trial, goes_on in zip(self._members, best, strict=True) if not goes_on and not trial.ended]
            self._members = [trial for trial, goes_on in zip(self._members, best, strict=True) if goes_on]
            self._rung += 1
            self._queue()
            for trial in out:
                self.stopped.append(trial.id)
                self._on_stopped(trial.id)
        if self.stopped and all(trial.failed for trial in self._members):
            best_stopped = max(map(self._trials.__getitem__, self.stopped), key=_reached)
            self.stopped.remove(best_stopped.id)
            self._members.append(best_stopped)
            self._queue()

    def _queue(self) -> None:
        """Lets the members wait that have not arrived at the rung."""
        self._waiting.extend(t.id for t in self._members if not t.ended and not self._has_score(t))

    def _has_score(self, trial: RankedTrial) -> bool:
        return len(trial.scores) > self._rung


def _reached(trial: RankedTrial) -> tuple[int, float]:
    """Its last rung and its score there."""
    score = trial.scores[-1] if trial.scores else None
    return len(trial.scores), -math.inf if score is None else score
