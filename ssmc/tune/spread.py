"""Where plans are measured: in one process beside this one, or by Ray in several, on as many GPUs or machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from ssmc.errors import ToolchainError
from ssmc.runtime import Subject, Trial

from .job import Job
from .worker import Turns, Worker


class Measurer(Protocol):
    """Measures plans of a job, ``width`` at a time."""

    width: int

    def subject(self) -> Subject:
        """What results are stored under."""
        ...

    def trials(self, plans: Sequence[str], turns: Turns) -> Iterator[Trial]:
        """What became of each plan, in any order."""
        ...


class _Here:
    width = 1

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def subject(self) -> Subject:
        return self._worker.job.subject()

    def trials(self, plans: Sequence[str], turns: Turns) -> Iterator[Trial]:
        for plan in plans:
            yield self._worker.trial(plan, turns)


@contextmanager
def local(job: Job, limit: float) -> Iterator[Measurer]:
    """One worker on this machine; ``limit``: seconds for a plan."""
    worker = Worker(job, limit)
    try:
        yield _Here(worker)
    finally:
        worker.stop()


class _ByRay:
    def __init__(self, ray: Any, actors: Sequence[Any]) -> None:
        self._ray, self._actors, self.width = ray, actors, len(actors)

    def subject(self) -> Subject:
        """That of all workers; ToolchainError if their devices differ, because times could not be compared."""
        found = self._ray.get([actor.subject.remote() for actor in self._actors])
        if len({subject.key for subject in found}) > 1:
            kinds = "; ".join(sorted({f"{s.device}, {s.tools}" for s in found}))
            raise ToolchainError(f"the workers run on different devices: {kinds}", expected="devices of one kind")
        return found[0]

    def trials(self, plans: Sequence[str], turns: Turns) -> Iterator[Trial]:
        """Each worker takes the next plan when it is done with one."""
        waiting, free = list(plans), list(self._actors)
        at_work: dict[Any, Any] = {}
        while waiting or at_work:
            while waiting and free:
                actor = free.pop()
                at_work[actor.trial.remote(waiting.pop(0), turns)] = actor
            (done, *_), _ = self._ray.wait(list(at_work))
            free.append(at_work.pop(done))
            yield self._ray.get(done)


@contextmanager
def over_ray(job: Job, limit: float, workers: int, address: str | None = None) -> Iterator[Measurer]:
    """So many workers of Ray, of the cluster at ``address`` or, without one, on this machine; those for a GPU have one
    each. ToolchainError if Ray is not installed or has no place for them."""
    try:
        import ray as installed
    except ImportError as error:
        raise ToolchainError("Ray is not installed", hint="pip install 'ssmc[ray]'") from error
    ray: Any = installed
    gpus = 1 if job.device.type == "cuda" else 0
    started = not ray.is_initialized()
    if started and address:
        ray.init(address=address, log_to_driver=False)
    elif started:
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        if gpus * workers > ray.cluster_resources().get("GPU", 0):
            raise ToolchainError(f"{workers} workers want a GPU each; Ray knows of fewer", hint="give --workers")
        actor = ray.remote(num_cpus=1, num_gpus=gpus)(Worker)
        actors = [actor.remote(job, limit) for _ in range(workers)]
        yield _ByRay(ray, actors)
        ray.get([a.stop.remote() for a in actors])
    finally:
        if started:
            ray.shutdown()
