"""Compile a folder's Triton kernels for a GPU that need not be there: a script, run in a process of its own.

    python -P triton_offline.py FOLDER ARCHITECTURE

It reads ``kernel.py`` and ``launches.json`` in FOLDER and writes the machine code of each kernel and ``kernel.json``,
what is known of it. It imports nothing of ssmc.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_ALIGNED = [["tt.divisibility", 16]]


def main(folder: Path, architecture: str) -> None:
    """Compile every kernel of the folder."""
    spec = importlib.util.spec_from_file_location("kernel", folder / "kernel.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    launches = json.loads((folder / "launches.json").read_text(encoding="utf-8"))
    facts = [compiled(getattr(module, launch["kernel"]), launch, folder, architecture) for launch in launches]
    (folder / "kernel.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def compiled(function: Any, launch: dict[str, Any], folder: Path, architecture: str) -> dict[str, Any]:
    """The machine code of one kernel goes to the folder; what it takes of a GPU is returned."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    parameters = list(enumerate(launch["parameters"]))
    source = ASTSource(
        fn=function,
        signature={p["name"]: "constexpr" if p["unit"] else p["type"] for _, p in parameters},
        constexprs={(n,): 1 for n, p in parameters if p["unit"]},
        attrs={(n,): _ALIGNED for n, p in parameters if p["type"].startswith("*")},
    )
    nvidia = architecture.startswith("sm_")
    number = int(architecture.removeprefix("sm_")) if nvidia else architecture
    target = GPUTarget("cuda", number, 32) if nvidia else GPUTarget("hip", number, 64)
    options = {"num_warps": launch["warps"], "enable_fp_fusion": True}
    done = triton.compile(source, target=target, options=options)
    kind = "cubin" if nvidia else "hsaco"
    file = folder / f"{launch['kernel']}.{kind}"
    file.write_bytes(done.asm[kind])
    found = {
        "kernel": launch["kernel"],
        "file": file.name,
        "symbol": done.metadata.name,
        "shared": done.metadata.shared,
    }
    own = sum(not p["unit"] for _, p in parameters)
    taken = _nvidia(triton, file, done.asm["ptx"]) if nvidia else _amd(done.asm["amdgcn"])
    return {**found, **taken, "null_pointers": taken["null_pointers"] - own}


def _nvidia(triton: Any, cubin: Path, assembly: str) -> dict[str, int]:
    """How many parameters it has, and registers of a thread. A stack may be that of a function which is called: where
    there is one, the assembler is asked what was spilled."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    said = subprocess.run([tool, "--dump-resource-usage", cubin], capture_output=True, text=True, check=True).stdout
    registers, stack = (int(_number(rf"{name}:(\d+)", said)) for name in ("REG", "STACK"))
    head = assembly[assembly.index(".entry") :].partition("{")[0]
    spilled = _spilled(assembly) if stack else 0
    return {"registers": registers, "spilled": spilled, "null_pointers": head.count(".param ")}


def _spilled(assembly: str) -> int:
    """The bytes that a thread writes to and reads from its stack because registers ran out."""
    from triton.backends.nvidia.compiler import get_ptxas

    architecture = _number(r"\.target (\w+)", assembly)
    found = get_ptxas(int(_number(r"sm_(\d+)", architecture)))
    tool = getattr(found, "path", None) or found[0]
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(assembly)
        file.flush()
        command = [tool, "-v", f"-arch={architecture}", file.name, "-o", "/dev/null"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return sum(int(_number(rf"(\d+) bytes spill {what}", said)) for what in ("stores", "loads"))


def _amd(text: str) -> dict[str, int]:
    """How many parameters it has; vector registers of a thread, and the bytes of those that were spilled."""
    registers = int(_number(r"\.vgpr_count:\s+(\d+)", text))
    spilled = 4 * int(_number(r"\.vgpr_spill_count:\s+(\d+)", text))
    return {"registers": registers, "spilled": spilled, "null_pointers": len(re.findall(r"\.offset:", text))}


def _number(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found is not None, f"{pattern} is not in what the tools say"
    return found[1]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
