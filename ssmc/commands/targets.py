"""``ssmc targets``: what this machine can build and run, and why not."""

from __future__ import annotations

from typing import Any

from ssmc.errors import ToolchainError

from .report import Report, command, table


@command("targets")
def targets() -> Report:
    """List what layers can be compiled for, which of it this machine can build and run, and why not the rest.

    A GPU is needed to run, never to build. At the end stands what layers usually run as on the devices of this machine;
    `ssmc.load(..., target=)` asks for another target.
    """
    from ssmc.backends import TARGETS

    rows, facts = [], []
    for target in TARGETS.values():
        for name in [f"{target.name}:{item}" for item in sorted(target.architectures, key=_order)] or [target.name]:
            builds, runs = _builds(name), _runs(name)
            facts.append(
                {"target": name, "builds": not builds, "runs": not runs, "why": [w for w in (builds, runs) if w]}
            )
            rows.append((name, f"{_verdict('builds', builds)}\n{_verdict('runs', runs)}"))
    from ssmc.runtime import devices

    here = [{"device": device, "name": name, "runs_as": target} for device, name, target in devices()]
    shown = [f"{item['device']}{item['name'] and ', ' + item['name']}: {item['runs_as']}" for item in here]
    rows.append(("usually", "\n".join(shown)))
    return Report(table(rows), {"targets": facts, "devices": here})


def _order(architecture: str) -> tuple[bool, int, str]:
    return not architecture.startswith("sm_"), len(architecture), architecture


def _verdict(what: str, reason: str) -> str:
    return f"{what}: no, {reason}" if reason else f"{what}: yes"


def _builds(target: str) -> str:
    """Why nothing can be built for a target; empty if it can."""
    from ssmc.backends import cuda_toolchain, target_named, toolchain, triton_toolchain

    found = target_named(target)
    tools: Any = triton_toolchain if found.tiles else cuda_toolchain if found.blocks else toolchain
    try:
        tools.find()
    except ToolchainError as error:
        return str(error.diagnostics[0].message)
    return ""


def _runs(target: str) -> str:
    """Why this machine does not run a target's kernels; empty if it does."""
    from ssmc.runtime import reason_against

    return reason_against(target)
