"""New names for equations and axes that a pass introduces."""

from __future__ import annotations

from dataclasses import dataclass

from ssmc.ir import Program


@dataclass
class Names:
    """Names that are not yet taken in a Program."""

    taken: set[str]

    @staticmethod
    def of(program: Program) -> Names:
        """All names but those of the Program."""
        opaque = {o.name for o in program.opaques} | {f.name for f in program.functions}
        return Names({*program.tensors(), *(a.name for a in program.axes), *opaque})

    def new(self, base: str) -> str:
        """``base``, or that with a number where it is taken; taken from now on."""
        name, number = base, 1
        while name in self.taken:
            number += 1
            name = f"{base}_{number}"
        self.taken.add(name)
        return name
