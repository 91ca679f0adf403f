"""Call a shipped layer on a GPU that is this host, where there is no ssmc, no Triton and no bindings: a script.

    python shipped_run.py FOLDER NAME

FOLDER holds the layer, ``given.pt`` (its arguments), the driver ``libcuda.c`` built, and takes ``found.pt``: outputs,
the stream, and what went wrong, if anything. PyTorch is told what it would see with a GPU of the description's.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FORBIDDEN = ("ssmc", "triton", "cuda", "pycuda", "cupy")
STREAM = 77


class Forbidden:
    """Finds nothing of what must not be needed."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"{name} must not be needed")


def main(folder: Path, name: str) -> None:
    sys.meta_path.insert(0, Forbidden())  # type: ignore[arg-type]
    import torch

    about = json.loads((folder / f"{name}.json").read_text())
    told: list[Any] = []
    if about["target"] != "c":
        pretend(torch, about["gpu"], told)
    sys.path.insert(0, str(folder))
    layer = importlib.import_module(name).layer
    print(layer)
    if about["target"] != "c":
        layer._device = "cpu"
    if "programs" in about:
        by_hook(folder, name, about)
    made = layer(*torch.load(folder / "given.pt"))
    torch.save(made, folder / "found.pt")
    assert not {module.partition(".")[0] for module in sys.modules} & {*FORBIDDEN}
    assert not told or {*told} == {"cpu"}  # the device of the tensors, while kernels are loaded and launched


def pretend(torch: Any, gpu: dict[str, Any], told: list[Any]) -> None:
    """PyTorch with a GPU, which is this host."""
    torch.version.hip = "6.4" if "name" in gpu else None
    torch.cuda.get_device_capability = lambda device: tuple(gpu["capability"])
    torch.cuda.get_device_properties = lambda device: SimpleNamespace(gcnArchName=f"{gpu.get('name')}:xnack-")
    torch.cuda.current_stream = lambda device: SimpleNamespace(cuda_stream=STREAM)

    @contextlib.contextmanager
    def device(which: Any) -> Any:
        told.append(str(which))
        yield

    torch.cuda.device = device


def by_hook(folder: Path, name: str, about: dict[str, Any]) -> None:
    """Programs on tiles are run from their text, by NumPy."""
    from tests.triton_host.plain import Memory, plain, quickly_launched

    kernels = plain((folder / f"{name}.triton.py").read_text())
    items = {item["symbol"]: item for item in about["programs"]}
    kind = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_void_p),
    )  # fmt: skip

    def hook(symbol: bytes, blocks: int, threads: int, shared: int, stream: int, given: Any) -> int:
        item = items[symbol.decode()]
        assert (threads, shared, stream) == (item["threads"], item["shared"], STREAM)
        own = [p for p in item["parameters"] if not p["unit"]]
        cells = [struct.unpack("q", ctypes.string_at(given[n], 8))[0] for n in range(len(own) + item["null_pointers"])]
        assert cells[len(own) :] == [0] * item["null_pointers"]
        values = dict(zip((p["name"] for p in own), cells, strict=False))
        arguments = [
            1 if p["unit"] else Memory(values[p["name"]], p["type"][1:], 1 << 16) if p["type"][0] == "*" else
            values[p["name"]] for p in item["parameters"]
        ]  # fmt: skip
        quickly_launched(getattr(kernels, item["kernel"]), blocks, arguments)
        return 0

    kept.append(kind(hook))
    ctypes.CDLL("libamdhip64.so" if "name" in about["gpu"] else "libcuda.so.1").fake_hook(kept[-1])


kept: list[Any] = []  # what C holds pointers to

if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
