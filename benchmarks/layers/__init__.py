"""One module per table of layers; each has ``cases(quick)``."""
