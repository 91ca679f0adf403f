"""Plan → Plan: kernels that run through time in order take many steps at once, as far as recurrences allow that.

    h = a * h[t-1] + x

  =  over the steps of a tile, the first of which is s:
        (A, X)  = (a, x) scanned by  (a1, x1) ∘ (a2, x2) = (a1 * a2, x1 * a2 + x2)       A, X: from s on, t included
        h       = A * h[s-1] + X
        h[t-1]  = h of the step before, h[s-1] in front
     and h of the last step is the next tile's h[s-1]

Backwards in time, and what is rebuilt upwards for a chunk of a way back, the same. A sum over time that nothing reads
before its end needs no scan: it is added up over the steps of a tile. Everything is computed once, unlike where time is
cut into parts; but a scan takes twice the multiplications, and tiles of many steps leave room for few channels.

Precondition: every value that is carried is carried for one step, and every recurrence is affine in its past, of which
each element depends on its own alone. Kernels that do not run in order stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ssmc.errors import Unsupported
from ssmc.ir import BOOL, Expr, Program, Read, dependence, rewrite, walk

from .chunks import Chain, chain_of
from .plan import KernelPlan, Plan, Scan
from .recompute import CHUNK, entry_of

TOGETHER = 8  # lanes whose sum is one part of a sum over lanes


class NotAtOnce(Exception):
    """Why a kernel cannot take steps at once."""


def at_once(plan: Plan) -> Plan:
    """The plan with ``scans`` for every kernel that runs in order.

    Raises NotAtOnce, with the kernel's equations, if there is one that cannot.
    """
    ordered = [kernel for kernel in plan.kernels if kernel.recurrent]
    if not ordered:
        return plan
    program = _without_entries(plan.program, {name for kernel in ordered for name in kernel.rebuilt})
    chains = _chains(program, {name for kernel in ordered for name in kernel.equations})
    found = {kernel.name: _scanned(plan, kernel, chains) for kernel in ordered}
    return replace(plan, kernels=tuple(found.get(kernel.name, kernel) for kernel in plan.kernels))


def _without_entries(program: Program, rebuilt: set[str]) -> Program:
    """The Program with recurrences that are rebuilt as they were: a tile is a chunk, and begins with what is kept."""

    def rule(node: Expr) -> Expr | None:
        entry = entry_of(node)
        return entry[0] if entry is not None and entry[0].tensor in rebuilt else None

    equations = tuple(replace(e, expr=rewrite(e.expr, rule)) for e in program.equations)
    return replace(program, equations=equations) if rebuilt else program


def _chains(program: Program, names: set[str]) -> dict[str, Chain]:
    """The recurrences among these equations, by the value that is carried."""
    found = {}
    for loop in dependence(program).recurrences:
        if names & set(loop.equations()):
            try:
                chain = chain_of(program, loop)
            except Unsupported as reason:
                raise NotAtOnce(str(reason.diagnostics[0].message)) from reason
            found[chain.carried.name] = chain
    return found


def _scanned(plan: Plan, kernel: KernelPlan, chains: Mapping[str, Chain]) -> KernelPlan:
    """One kernel, with how each of its recurrences follows from its past."""

    def no(why: str) -> NotAtOnce:
        return NotAtOnce(f"kernel {kernel.name}, which computes {', '.join(kernel.equations)}, {why}")

    for name, depth in kernel.carried.items():
        if depth > 1:
            raise no(f"reads `{name}` {depth} steps back")
        if plan.program.equation(name).dtype is BOOL:
            raise no(f"carries `{name}`, which is true or false")
        if name in chains and chains[name].time != kernel.time:
            raise no(f"runs along `{kernel.time}`, and `{name}` along `{chains[name].time}`")
    scans = {}
    for name in kernel.carried.keys() & chains.keys():
        form, factor = chains[name].form, chains[name].factor
        scans[name] = Scan(factor, form.rest, factor is None and _is_total(plan.program, kernel, chains[name]))
    steps = CHUNK if kernel.chunk else plan.options.chunk or CHUNK
    return replace(kernel, at_once=steps, scans={name: scans[name] for name in kernel.carried if name in scans})


def _is_total(program: Program, kernel: KernelPlan, chain: Chain) -> bool:
    """Whether nothing reads a recurrence but what is read of it after the last step."""
    name = chain.carried.name
    if name in kernel.stored or len(chain.members) > 1:
        return False
    others = [program.equation(other) for other in kernel.equations if other != name and other not in kernel.finals]
    return not any(isinstance(node, Read) and node.tensor == name for e in others for node in walk(e.expr))
