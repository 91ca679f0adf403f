"""Everything that only a GPU can tell, by one command: ``python -m benchmarks.gpu``, or ``make gpu``.

``device`` is what is measured on, ``floors`` what its physics allow, ``workloads`` the layers with their peers,
``sections`` the parts of a run, ``work`` what each does in a process of its own, ``report`` the tables.
"""
