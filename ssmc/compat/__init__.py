"""Drop-ins: functions that other libraries offer, with their signatures, on compiled layers.

=============================  ==============================================
function                       as in
=============================  ==============================================
``selective_scan_fn``          mamba_ssm (state-spaces/mamba)
``mamba_inner_fn``             mamba_ssm
``selective_state_update``     mamba_ssm
``mamba_chunk_scan_combined``  mamba_ssm
``causal_conv1d_fn``           causal_conv1d (Dao-AILab/causal-conv1d)
``causal_conv1d_update``       causal_conv1d
``rnn_scan``                   recurrentgemma.torch
``fused_recurrent_hgrn``       fla (fla-org/flash-linear-attention)
``chunk_hgrn``                 fla
=============================  ==============================================

They run on the CPU and accumulate in float32 (float64 if an argument is float64). Results have the dtype
and shape that the originals return; those with time last are views of memory with channels last. Wrong arguments
raise UserError. Gradients flow to every floating-point argument, and through every state that goes in or out, also
where the originals stop them.
"""

from .causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from .fla import chunk_hgrn, fused_recurrent_hgrn
from .mamba_ssm import mamba_chunk_scan_combined, mamba_inner_fn, selective_scan_fn, selective_state_update
from .recurrentgemma import rnn_scan

__all__ = [
    "causal_conv1d_fn",
    "causal_conv1d_update",
    "chunk_hgrn",
    "fused_recurrent_hgrn",
    "mamba_chunk_scan_combined",
    "mamba_inner_fn",
    "rnn_scan",
    "selective_scan_fn",
    "selective_state_update",
]
