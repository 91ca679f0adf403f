"""Machine code → a PyTorch operator: ``load``, ``compile``, the ``Layer`` they return, its ``State``.

``form_check``, ``nobody_watches`` and ``nobody_intercepts`` tell fast whether a call is a plain one that was made
before; ``Repeated`` is such a call of which only the state changes.
"""

from .examined import Examined, Prepared
from .forms import FORMS_ARE_TOLD, form_check, nobody_intercepts, nobody_watches
from .layer import Layer
from .library import Library
from .loading import compile, load
from .machines import architecture_of, devices, reason_against
from .repeated import Repeated, Workspace
from .state import State, rebuilt
from .tuned import MEASURED, Bucket, Results, Subject, Trial, Winner, bucket_of, is_used

__all__ = [name for name in dir() if not name.startswith("_")]
