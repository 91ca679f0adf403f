"""Timings of compiled layers beside hand-written kernels and what else there is; see README.md."""
