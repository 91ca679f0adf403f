"""Plans that run faster than the compiler's own, found by trying them: ``tune(job, …)``.

``job`` says what is tuned, ``search`` which plans to try next, ``prune`` which are not worth measuring, ``worker``
measures them in a process of its own, ``spread`` in several, by Ray, and ``tuning`` puts that together. What is found
is stored where ``ssmc.load`` looks for it.
"""

from .job import PASSES, Job
from .prune import bound_of, pruner
from .search import SEARCHERS
from .spread import local, over_ray
from .tuning import Effort, Found, tune

__all__ = ["PASSES", "SEARCHERS", "Effort", "Found", "Job", "bound_of", "local", "over_ray", "pruner", "tune"]
