"""The search itself: ask, prune, measure, store; then confirm the best plans in a run of their own."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ssmc.passes import PlanOptions
from ssmc.runtime import MEASURED, Bucket, Results, Subject, Trial, Winner

from .search import Searcher
from .spread import Measurer
from .worker import Turns

CANDIDATES = 3  # of the fastest plans that are confirmed
WORTH = 0.97  # of the compiler's own time is what a plan may take at most, in the search and when it is confirmed
WON = 0.7  # of the turns, at least, is it to be faster in when it is confirmed


@dataclass(frozen=True)
class Effort:
    """How much to try: at most so many new ``trials``, for at most so many ``seconds`` in all."""

    trials: int = 40
    seconds: float = 600.0
    look: Turns = Turns(9, 1.0)
    confirm: Turns = Turns(25, 5.0)


@dataclass(frozen=True)
class Found:
    """What is known after a search: ``bucket`` as it is stored, ``tried`` in this run, and ``bound``, seconds that no
    plan can beat."""

    subject: Subject
    bucket: Bucket
    tried: int
    ended: str
    bound: float = 0.0

    @property
    def measured(self) -> list[Trial]:
        """All measured trials, the fastest first."""
        found = [t for t in self.bucket.trials.values() if t.outcome == MEASURED]
        return sorted(found, key=lambda t: t.ratio or 0.0)


def tune(
    bucket: Bucket,
    results: Results,
    measurer: Measurer,
    searcher: Searcher,
    reason_against: Callable[[PlanOptions], str] = lambda options: "",
    effort: Effort = Effort(),
    bound: float = 0.0,
    say: Callable[[str], None] = lambda text: None,
) -> Found:
    """Search for a faster plan and store what is found.

    Args:
        bucket: what extents are tuned for; what is stored for it is not tried again.
        results: where it is stored, after every trial.
        measurer, searcher: where plans are measured, which are tried.
        reason_against: why a plan need not be measured.
        effort: how much to try.
        bound: seconds that no plan can beat: the search ends where one comes near.
        say: is told what is done.
    """
    subject = measurer.subject()
    search = _Search(subject, results.bucket(subject, bucket), results, measurer, searcher, effort, bound, say)
    ended = search.run(reason_against)
    search.confirm()
    return Found(subject, search.bucket, search.tried, ended, bound)


@dataclass
class _Search:
    subject: Subject
    bucket: Bucket
    results: Results
    measurer: Measurer
    searcher: Searcher
    effort: Effort
    bound: float
    say: Callable[[str], None]
    tried: int = 0

    def run(self, reason_against: Callable[[PlanOptions], str]) -> str:
        """Try plans until there is a reason to end, which is returned."""
        until = time.monotonic() + self.effort.seconds
        while True:
            if self.tried >= self.effort.trials:
                return f"{self.tried} plans were tried"
            if time.monotonic() > until:
                return f"{self.effort.seconds:.0f} s are over"
            if self._is_at_bound():
                return "the bound of this machine is reached"
            asked = self.searcher.ask(min(self.measurer.width, self.effort.trials - self.tried))
            if not asked:
                return "no option made it faster"
            self._try(asked, reason_against)

    def _try(self, asked: Sequence[PlanOptions], reason_against: Callable[[PlanOptions], str]) -> None:
        new = []
        for options in asked:
            known = self.bucket.trials.get(str(options))
            if known is None and (reason := reason_against(options)):
                known = self._store(Trial(str(options), "pruned", note=reason))
            if known is None:
                new.append(options)
            else:
                self.searcher.tell(options, known.ratio)
        self.tried += len(new)
        waiting = {str(options): options for options in new}
        for trial in self.measurer.trials(list(waiting), self.effort.look):
            self.searcher.tell(waiting[trial.plan], self._store(trial).ratio)

    def _store(self, trial: Trial) -> Trial:
        self.bucket.trials[trial.plan] = trial
        self.results.write(self.subject, self.bucket)
        self.say(f"{trial.plan}: {trial.result}")
        return trial

    def _is_at_bound(self) -> bool:
        times = [t.seconds for t in self.bucket.trials.values() if t.seconds]
        # A time below it shows that the speeds of the machine were measured while it was busy.
        return bool(times) and self.bound <= min(times) <= 1.05 * self.bound

    def confirm(self) -> None:
        """The fastest plan that is fast a second time, measured for longer, wins; else the compiler's own does."""
        measured = [t for t in self.bucket.trials.values() if t.outcome == MEASURED]
        best = sorted((t for t in measured if (t.ratio or 1.0) < WORTH), key=lambda t: t.ratio or 1.0)[:CANDIDATES]
        found: Mapping[str, Trial] = {}
        if best:
            again = self.measurer.trials([t.plan for t in best], self.effort.confirm)
            found = {t.plan: t for t in again}
        for plan, trial in found.items():
            self.say(f"{plan}: {trial.result}, when confirmed")
        won = [t for t in found.values() if t.ratio is not None and t.ratio < WORTH and (t.won or 0.0) >= WON]
        when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        if won:
            first = min(won, key=lambda t: t.ratio or 1.0)
            self.bucket.winner = Winner(first.plan, float(first.ratio or 1.0), when)
        elif measured:
            self.bucket.winner = Winner("", 1.0, when)
        self.results.write(self.subject, self.bucket)
