"""Machine code → a PyTorch operator: ``load``, ``compile``, the ``Layer`` they return, its ``State``.

``form_check`` and ``nobody_intercepts`` tell fast whether a call is a plain one that was made before.
"""

from .examined import Examined, Prepared
from .forms import form_check, nobody_intercepts
from .layer import Layer
from .library import Library
from .loading import compile, load
from .machines import architecture_of, devices, reason_against
from .state import State
from .tuned import MEASURED, Bucket, Results, Subject, Trial, Winner, bucket_of, is_used

__all__ = [name for name in dir() if not name.startswith("_")]
