"""``ssmc explain``: what a layer is, what it carries, what it costs, how it would be run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from ssmc.errors import Unsupported, UserError

from .layer import LayerChoice, layer_options
from .report import Report, command, table

if TYPE_CHECKING:
    from ssmc.analysis import Cost, Recurrence
    from ssmc.explain import Explanation
    from ssmc.ir import Program
    from ssmc.passes import PlanOptions

REAL_BYTES = {"f64": 8, "f32": 4, "bf16": 2, "f16": 2}


@command("explain")
@layer_options
@click.option("--target", default="c", show_default=True, help="What the plan is for.")
def explain(target: str, **layer: Any) -> Report:
    """Say what LAYER computes, carries and costs, and which plan it gets.

    LAYER is as for `ssmc compile`. --sizes must give the extent of every axis of the inputs. Every input counts
    as read once and every output as written once; what can be hoisted out of a loop counts once.
    """
    chosen = LayerChoice.parse(**layer)
    program = chosen.elaborate()
    _need_sizes(program, chosen)
    from ssmc import analysis
    from ssmc.ir import complete_extents

    extents = complete_extents(program, chosen.sizes)
    recurrences = analysis.classify(program)
    states = _states(program, extents, chosen.dtype)
    cost = analysis.cost(program, chosen.sizes, REAL_BYTES[chosen.dtype])
    found, unsupported = _explanation(chosen, program, target)
    facts = {
        **chosen.facts(),
        "target": target,
        "axes": extents,
        "inputs": [_tensor(t) for t in program.inputs],
        "outputs": [_tensor(program.tensors()[name]) for name in program.outputs],
        "recurrences": [{"equations": list(r.equations), "axis": r.axis, "kind": _kind(r)} for r in recurrences],
        "state": states,
        "gradients": _stated_gradients(program),
        "cost": _cost_facts(cost),
        "kernels": found.facts() if found else None,
        "unsupported": unsupported,
    }
    rows = [
        ("layer", f"{chosen.signature.name} ({chosen.module.source.name})"),
        ("target", target),
        ("extents", ", ".join(f"#{name} = {extent}" for name, extent in extents.items())),
        ("inputs", "\n".join(_tensor_text(t) for t in facts["inputs"])),
        ("outputs", "\n".join(_tensor_text(t) for t in facts["outputs"])),
        (
            "recurrences",
            "\n".join(f"{', '.join(r.equations)} along {r.axis}: {_kind(r)}" for r in recurrences) or "none",
        ),
        ("state", "\n".join(_state_text(state) for state in states) or "none"),
        ("gradient", "\n".join(["derived", *map(_stated_text, facts["gradients"])])),
        *_cost_rows(cost),
        ("kernels", str(found) if found else "none: " + " ".join(unsupported)),
    ]
    return Report(table(rows), facts)


def _need_sizes(program: Program, chosen: LayerChoice) -> None:
    needed = dict.fromkeys(axis for tensor in program.inputs for axis in tensor.axes)
    free = {axis.name for axis in program.axes if axis.extent is None}
    missing = [axis for axis in needed if axis in free and axis not in chosen.sizes]
    if missing:
        example = ",".join(f"{axis}=…" for axis in missing)
        raise UserError(f"the extents of {', '.join(missing)} are not known", hint=f"add --sizes {example}")


def _explanation(chosen: LayerChoice, program: Program, target: str) -> tuple[Explanation | None, list[str]]:
    """Kernels, what bounds them on this machine, and the time that gives; or why there are none."""
    from ssmc import explain as kernels
    from ssmc.backends import default_storage

    try:
        storage = default_storage(program, chosen.dtype)
        options, origin = _planned(chosen, target)
        return kernels.explain(program, chosen.sizes, storage, options=options, target=target, origin=origin), []
    except Unsupported as error:
        return None, [diagnostic.message for diagnostic in error.diagnostics]


def _planned(chosen: LayerChoice, target: str) -> tuple[PlanOptions | None, str]:
    """The plan that is asked for, or that tuning has found for this machine, and why it is this one."""
    from ssmc.backends import Cache

    if target != "c" or (chosen.plan and chosen.plan.chosen) or not (Cache().root / "tuned").is_dir():
        return chosen.plan, "as was asked for" if chosen.plan and chosen.plan.chosen else ""
    from ssmc import runtime

    layer = runtime.load(chosen.name, None, None, "", **chosen.choice.statics)
    present = None if chosen.choice.present is None else sorted(chosen.choice.present)
    found = runtime.Examined(layer, present, chosen.choice.signatures, chosen.dtype).planned(chosen.sizes)
    return found.options, found.because


def _kind(recurrence: Recurrence) -> str:
    """A recurrence in a few words."""
    words = ["affine in its past" if recurrence.affine else "not affine in its past"]
    if recurrence.elementwise:
        words.append("elementwise")
    if recurrence.contracts:
        words.append(f"contracts {', '.join(recurrence.contracts)}")
    if recurrence.shifts:
        words.append(f"shifts {', '.join(recurrence.shifts)}")
    if recurrence.time_invariant:
        words.append("time-invariant")
    if recurrence.matrix_shaped:
        words.append("matrix-shaped")
    if recurrence.direction < 0:
        words.append("runs backwards")
    return ", ".join(words)


def _states(program: Program, extents: dict[str, int], dtype: str) -> list[dict[str, Any]]:
    """What is carried from one call to the next, with its size where it has one."""
    from ssmc.analysis import StateTensor, carried_state
    from ssmc.ir import COMPLEX, evaluate_int

    found: list[dict[str, Any]] = []
    tensors = program.tensors()
    for state in carried_state(program):
        if not isinstance(state, StateTensor):
            found.append({"name": f"position along {state.axis}", "kind": "counter", "bytes": 8})
            continue
        axes = [axis for axis in state.axes if axis != state.axis]
        entry: dict[str, Any] = {
            "name": state.name,
            "kind": "history" if state.growing else "last values",
            "axes": axes,
        }
        if state.depth is not None:
            depth = evaluate_int(state.depth, extents)
            width = max(4, REAL_BYTES[dtype]) * (2 if tensors[state.name].dtype is COMPLEX else 1)
            entry |= {"depth": depth, "bytes": depth * width * math.prod(extents[axis] for axis in axes)}
        found.append(entry)
    return found


def _stated_gradients(program: Program) -> list[dict[str, Any]]:
    """What a ``backward:`` block states instead of what would be derived."""
    blocks = [{"of": list(block.outputs), "for": list(block.inputs)} for block in program.customs]
    functions = [f for f in program.functions if f.backward]
    return blocks + [{"of": [f.name], "for": [name for name, _ in f.backward]} for f in functions]


def _stated_text(stated: dict[str, Any]) -> str:
    return f"stated: {', '.join(stated['of'])} from {', '.join(stated['for'])}"


def _state_text(state: dict[str, Any]) -> str:
    if state["kind"] == "counter":
        return f"{state['name']}: a counter"
    where = f"{state['name']}[{', '.join(state['axes'])}]"
    if state["kind"] == "history":
        return f"{where}: all values so far"
    return f"{where}: last {state['depth']}, {_bytes(state['bytes'])}"


def _cost_facts(cost: Cost) -> dict[str, Any]:
    return {
        "bytes_in": cost.bytes_in,
        "bytes_out": cost.bytes_out,
        "flops": cost.flops,
        "exponentials": cost.exponentials,
        "equations": [{"name": e.name, "points": e.points, "flops": e.flops} for e in cost.equations],
    }


def _cost_rows(cost: Cost) -> list[tuple[str, str]]:
    moved = cost.bytes_in + cost.bytes_out
    return [
        ("reads", _bytes(cost.bytes_in)),
        ("writes", _bytes(cost.bytes_out)),
        ("arithmetic", f"{_scaled(cost.flops)}flop, {_scaled(cost.exponentials).rstrip()} exponentials among them"),
        ("intensity", f"{cost.flops / moved:.1f} flop per byte" if moved else "moves no bytes"),
    ]


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "axes": list(tensor.axes), "type": tensor.dtype.value}


def _tensor_text(tensor: dict[str, Any]) -> str:
    return f"{tensor['name']}[{', '.join(tensor['axes'])}]: {tensor['type']}"


def _scaled(number: float) -> str:
    """A number to three digits with a decimal prefix, ready for a unit."""
    prefixes = ["", "k", "M", "G", "T"]
    while number >= 999.5 and len(prefixes) > 1:
        number /= 1000
        del prefixes[0]
    return f"{number:.3g} {prefixes[0]}"


def _bytes(number: int) -> str:
    return _scaled(number) + "B"
