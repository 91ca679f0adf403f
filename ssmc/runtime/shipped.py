"""A compiled layer, called with PyTorch's tensors.

`ssmc compile LAYER -o DIR` writes this file to DIR as NAME.py, beside machine code and NAME.json, which describes it:

    from NAME import layer

    y = layer(x, a)  # by position, in the order of `layer.inputs`, or by name

It needs torch and, on a GPU, the display driver: neither ssmc nor Triton nor a compiler. Arguments have the shapes,
dtypes and device that `print(layer)` says; outputs are new, contiguous tensors. Kernels are launched on PyTorch's
current stream and nothing is waited for. There are no gradients.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch

DTYPES = {"f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16,
          "i64": torch.int64, "i32": torch.int32, "b8": torch.bool, "c128": torch.complex128,
          "c64": torch.complex64}  # fmt: skip
WARP = 32
MOST_POINTS = MOST_PROGRAMS = (1 << 31) - 1  # threads, and programs, of one launch
ALIGNED = 16  # bytes; Triton's kernels want memory to begin at multiples of it
PLAIN_SHARED = 48 << 10  # bytes of shared memory that a block gets without asking
Extents: TypeAlias = Mapping[str, int]
Tensors: TypeAlias = Mapping[str, torch.Tensor]
Facts: TypeAlias = Mapping[str, Any]


class Layer:
    """What `description`, a JSON file beside machine code, describes. Call it with tensors.

    Raises:
        TypeError: an argument is missing, unknown, given twice, or no tensor.
        ValueError: an argument has another dtype, number of axes, extent, layout or device than it must have, or
            requires a gradient.
        RuntimeError: there is no driver, the GPU is one that the machine code is not for, or the driver refuses.
    """

    def __init__(self, description: Path) -> None:
        self._folder = description.parent
        self._about: Facts = json.loads(description.read_text(encoding="utf-8"))
        self.name: str = self._about["layer"]
        self.target: str = self._about["target"]
        self._of: dict[str, Facts] = {item["name"]: item for item in self._about["arguments"]}
        self.inputs, self.outputs, self._spare = (
            tuple(name for name, item in self._of.items() if item["role"] == role)
            for role in ("input", "output", "workspace")
        )
        self._device = "cpu" if self.target == "c" else "cuda"
        self._codes: dict[torch.device, Code] = {}

    def __str__(self) -> str:
        def shown(names: Sequence[str]) -> Iterator[str]:
            for name in names:
                yield f"    {name}[{', '.join(self._of[name]['axes'])}]: {DTYPES[self._of[name]['storage']]}"

        fixed = ", ".join(f"{axis} = {extent}" for axis, extent in self._about["fixed"].items())
        lines = [f"{self.name}, for tensors on {self._device} ({self.target})", *shown(self.inputs), "->"]
        return "\n".join([*lines, *shown(self.outputs), *([f"where {fixed}"] if fixed else [])])

    __repr__ = __str__

    def __call__(self, *args: torch.Tensor, **named: torch.Tensor) -> Any:
        given = {name: self._checked(name, value) for name, value in self._bound(args, named).items()}
        device = self._one_device(given)
        extents = self._extents(given)
        code = self._codes.get(device)
        if code is None:
            code = self._codes[device] = self._code(device)
        tensors = {name: code.ready(name, value) for name, value in given.items()}
        for name in (*self.outputs, *self._spare):
            shape = [extents[axis] for axis in self._of[name]["axes"]]
            tensors[name] = torch.empty(shape, dtype=DTYPES[self._of[name]["storage"]], device=device)
        code.run(tensors, extents)
        made = tuple(tensors[name] for name in self.outputs)
        return made[0] if len(made) == 1 else made

    # ------------------------------------------------------------ arguments

    def _bound(self, args: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
        """Each input with its argument, in order."""
        wanted = f"{self.name} takes {', '.join(self.inputs)}"
        if len(args) > len(self.inputs):
            raise TypeError(f"{len(args)} positional arguments; {wanted}")
        found = dict(zip(self.inputs, args, strict=False))
        for name, value in named.items():
            if name not in self.inputs or name in found:
                raise TypeError(f"{name!r} is {'given twice' if name in found else 'no input'}; {wanted}")
            found[name] = value
        missing = [name for name in self.inputs if name not in found]
        if missing:
            raise TypeError(f"missing: {', '.join(missing)}; {wanted}")
        return {name: found[name] for name in self.inputs}

    def _checked(self, name: str, value: Any) -> torch.Tensor:
        """The argument of an input, which must be the right kind of tensor."""
        item = self._of[name]
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{self.name}: {name!r} is an object of type {type(value).__name__}; expected a tensor")
        dtype, axes = DTYPES[item["storage"]], item["axes"]
        about = f"{self.name}: {name!r} is a {value.dtype} tensor of shape {tuple(value.shape)} on {value.device}"
        if value.device.type != self._device:
            raise ValueError(f"{about}; expected one on {self._device}, for which this was compiled ({self.target})")
        if value.dtype is not dtype or value.layout is not torch.strided:
            raise ValueError(f"{about}, {value.layout}; expected a dense {dtype} tensor")
        if value.dim() != len(axes):
            raise ValueError(f"{about}; expected {len(axes)} axes: {name}[{', '.join(axes)}]")
        if value.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{about} and requires a gradient, which there is none of; call it under torch.no_grad()")
        return value.resolve_conj().resolve_neg()

    def _one_device(self, given: Tensors) -> torch.device:
        found = {value.device: name for name, value in given.items()}
        if len(found) > 1:
            where = ", ".join(f"{name!r} on {device}" for device, name in found.items())
            raise ValueError(f"{self.name}: tensors on different devices: {where}; expected all on one")
        return next(iter(found))

    def _extents(self, given: Tensors) -> dict[str, int]:
        """The extent of every axis."""
        found: dict[str, int] = dict(self._about["fixed"])
        origin = dict.fromkeys(found, "what is compiled in")
        for name, value in given.items():
            for axis, extent in zip(self._of[name]["axes"], value.shape, strict=True):
                if found.setdefault(axis, extent) != extent:
                    raise ValueError(
                        f"{self.name}: {name!r} has extent {extent} along {axis!r}: its shape is {tuple(value.shape)}; "
                        f"expected {found[axis]}, as in {origin[axis]}"
                    )
                origin.setdefault(axis, repr(name))
        for axis, stated in self._about["extents"].items():  # in an order in which each is known when it is used
            extent = evaluated(stated, found)
            if found.setdefault(axis, extent) != extent:
                raise ValueError(f"{self.name}: {axis!r} has extent {found[axis]}; expected {extent}")
        for item in self._about["requirements"]:
            if not evaluated(item["condition"], found):
                raise ValueError(f"{self.name}: requirement not met: {item['text']}; found {found}")
        return found

    # ------------------------------------------------------------ machine code

    def _code(self, device: torch.device) -> Code:
        if self.target == "c":
            return Library(self._about, self._folder)
        check_gpu(self.target, self._about["gpu"], device)
        driver = Driver(device, hip=torch.version.hip is not None)
        make: Any = Programs if "programs" in self._about else Launches
        return make(self._about, self._folder, driver)


def evaluated(made: Sequence[Any], extents: Extents) -> int:
    """The value of an expression over extents."""
    kind, *rest = made
    if kind == "const":
        return int(rest[0])
    if kind == "size":
        return extents[rest[0]]
    if kind == "where":
        return evaluated(rest[1] if evaluated(rest[0], extents) else rest[2], extents)
    return OPERATIONS[rest[0]](*(evaluated(item, extents) for item in rest[1:]))


def power(a: int, b: int) -> int:
    """``a ^ b``, truncated towards zero where ``b`` is negative."""
    return int(a**b) if b >= 0 else {1: 1, -1: -1 if b % 2 else 1}.get(a, 0)


OPERATIONS: dict[str, Callable[..., int]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b if b else 0, "mod": lambda a, b: a % b if b else 0, "pow": power,
    "neg": lambda a: -a, "abs": abs, "minimum": min, "maximum": max,
    "lt": lambda a, b: int(a < b), "le": lambda a, b: int(a <= b), "gt": lambda a, b: int(a > b),
    "ge": lambda a, b: int(a >= b), "eq": lambda a, b: int(a == b), "ne": lambda a, b: int(a != b),
    "and": lambda a, b: int(bool(a) and bool(b)), "or": lambda a, b: int(bool(a) or bool(b)),
    "not": lambda a: int(not a), "bit_and": lambda a, b: a & b, "bit_or": lambda a, b: a | b,
    "bit_xor": lambda a, b: a ^ b,
}  # fmt: skip


# ---------------------------------------------------------------- kinds of machine code


class Code:
    """Machine code that is loaded, for one device."""

    def __init__(self, about: Facts) -> None:
        self.about = about

    def ready(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """An argument as the code takes it."""
        return value

    def run(self, tensors: Tensors, extents: Extents) -> None:
        """Compute all outputs; ``tensors`` are those of all arguments."""
        raise NotImplementedError

    def numbers(self, tensors: Tensors, extents: Extents) -> list[int]:
        """The extents of axes, then the strides of tensors."""
        strides = [tensors[item["name"]].stride() for item in self.about["arguments"]]
        return [*(extents[axis] for axis in self.about["axes"]), *itertools.chain.from_iterable(strides)]

    def pointers(self, tensors: Tensors) -> list[int]:
        return [tensors[item["name"]].data_ptr() for item in self.about["arguments"]]


class Library(Code):
    """A shared library, for processors that have the instructions of the one it was compiled on."""

    def __init__(self, about: Facts, folder: Path) -> None:
        super().__init__(about)
        check_processor(about["processor"])
        try:
            self.entry = ctypes.CDLL(str(folder / about["library"]))[about["symbol"]]
        except (OSError, AttributeError) as error:
            raise RuntimeError(f"{folder / about['library']} cannot be loaded: {error}") from error
        self.entry.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        self.entry.restype = ctypes.c_int64
        # Tensors without elements have no address, and compilers load what they then do not use.
        self.somewhere = ctypes.create_string_buffer(1 << 20)

    def run(self, tensors: Tensors, extents: Extents) -> None:
        numbers, middle = self.numbers(tensors, extents), ctypes.addressof(self.somewhere) + (1 << 19)
        pointers = [place or middle for place in self.pointers(tensors)]
        given = struct.pack(f"{len(pointers)}P", *pointers), struct.pack(f"{len(numbers)}q", *numbers)
        if self.entry(*given, torch.get_num_threads()):
            raise RuntimeError(f"{self.about['layer']}: there is not enough memory for what its kernels keep")


def check_processor(wanted: Facts) -> None:
    """RuntimeError if this processor lacks instructions; where it cannot be asked, nothing is said."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    words = next((line.split() for line in text.splitlines() if line.startswith(("flags", "Features"))), [])
    lacking = [name for name in wanted["has"] if words and name not in words]
    if lacking:
        here = f"this one lacks {', '.join(lacking)}. Compile it here"
        raise RuntimeError(f"this was compiled for processors like {wanted['name']}; {here}")


class Launches(Code):
    """Kernels of CUDA C. All take one struct: pointers, numbers, which part of the first axis a launch does, and zeros
    with which blocks signal to each other."""

    def __init__(self, about: Facts, folder: Path, driver: Driver) -> None:
        super().__init__(about)
        self.driver = driver
        module = driver.module((folder / about["library"]).read_bytes())
        self.kernels = [(item, driver.function(module, item["kernel"], item["shared"])) for item in about["launches"]]

    def run(self, tensors: Tensors, extents: Extents) -> None:
        pointers, numbers = self.pointers(tensors), self.numbers(tensors, extents)
        head = struct.pack(f"{len(pointers)}P", *pointers) + struct.pack(f"{len(numbers)}q", *numbers)
        with self.driver.current():
            for item, function in self.kernels:
                for first, count, blocks, threads, signals in pieces(item, extents):
                    zeros = torch.zeros(signals, dtype=torch.int32, device=self.driver.device)
                    given = ctypes.create_string_buffer(head + struct.pack("3q", first, count, zeros.data_ptr()))
                    self.driver.launch(function, blocks, threads, item["shared"], [ctypes.addressof(given)])


class Programs(Code):
    """Kernels of Triton. They were compiled for memory that begins at multiples of 16 bytes and, where that is a
    parameter, for neighbours along last axes that are neighbours in memory: other arguments are copied."""

    def __init__(self, about: Facts, folder: Path, driver: Driver) -> None:
        super().__init__(about)
        self.driver = driver
        self.kernels = []
        for item in about["programs"]:
            module = driver.module((folder / item["file"]).read_bytes())
            self.kernels.append((item, driver.function(module, item["symbol"], item["shared"])))
        self.axes = {item["name"]: item["axes"] for item in about["arguments"]}
        self.dense = {p["of"][0] for item in about["programs"] for p in item["parameters"] if p["unit"]}

    def ready(self, name: str, value: torch.Tensor) -> torch.Tensor:
        if name in self.dense and value.shape[-1] > 1 and value.stride(-1) != 1:
            value = value.contiguous()
        return value.clone() if value.data_ptr() % ALIGNED else value

    def run(self, tensors: Tensors, extents: Extents) -> None:
        with self.driver.current():
            for item, function in self.kernels:
                total = programs(item, extents)
                own = torch.empty(item["memory"] * total, dtype=torch.int8, device=self.driver.device)
                for first in range(0, total, MOST_PROGRAMS):
                    count = min(MOST_PROGRAMS, total - first)
                    cells = list(self.cells(item, tensors, extents, own, first))
                    places = [ctypes.addressof(cell) for cell in cells]
                    self.driver.launch(function, count, item["threads"], item["shared"], places)

    def cells(self, item: Facts, tensors: Tensors, extents: Extents, own: torch.Tensor, first: int) -> Iterator[Any]:
        """What each parameter is given, and null pointers for what Triton itself might want to keep."""
        for p in item["parameters"]:
            of = p["of"]
            if p["kind"] == "pointer":
                yield ctypes.c_void_p(tensors[of[0]].data_ptr())
            elif p["kind"] == "memory":
                yield ctypes.c_void_p(own.data_ptr())
            elif p["kind"] == "stride" and not p["unit"]:
                yield ctypes.c_int64(tensors[of[0]].stride(self.axes[of[0]].index(of[1])))
            elif not p["unit"]:
                yield ctypes.c_int64(extents[of[0]] if p["kind"] == "extent" else first)
        yield from (ctypes.c_void_p(0) for _ in range(item["null_pointers"]))


def pieces(item: Facts, extents: Extents) -> Iterator[tuple[int, int, int, int, int]]:
    """The launches of a kernel of CUDA C: the first index along its first axis, and how many; blocks, and threads; how
    many zeros they signal with."""
    if not wanted(item, extents):
        return
    points = [extents[axis] for axis in item["grid"]]
    if item["steps"]:
        points.append(-(-extents[item["time"]] // item["steps"]))
    lanes, threads = extents[item["lane"]] if item["lane"] else 1, item["threads"]
    if item["group"]:
        points.append(-(-lanes // item["group"]))
        threads = min(threads, -(-max(lanes, 1) // WARP) * WARP)
    elif item["lane"]:
        points.append(lanes)
    first, rest = (points[0], math.prod(points[1:])) if points else (1, 1)
    turns = extents[item["waits"]] if item["waits"] else 1
    one = rest * item["width"] * turns
    if one > MOST_POINTS:
        raise ValueError(f"{item['kernel']}: {one} threads for one index along its first axis; at most {MOST_POINTS}")
    each = MOST_POINTS // max(one, 1)
    for start in range(0, first if rest else 0, each):
        count = min(each, first - start)
        blocks = count * rest * turns if item["group"] else -(-count * rest * item["width"] // threads)
        yield start, count, blocks, threads, 1 + count * rest if turns > 1 else 0


def wanted(item: Facts, extents: Extents) -> bool:
    """Whether a kernel is for these extents."""
    one, more = ([extents[axis] > 1 for axis in item[which]] for which in ("one", "more"))
    return not any(one) and (not more or any(more))


def programs(item: Facts, extents: Extents) -> int:
    """How many programs of a Triton kernel there are."""
    if not wanted(item, extents):
        return 0
    points = [extents[axis] for axis in item["grid"]]
    points += [-(-extents[item["time"]] // item["steps"])] if item["steps"] else []
    points += [-(-extents[item["lane"]] // item["block"])] if item["lane"] else []
    return math.prod(points)


# ---------------------------------------------------------------- the GPU


def check_gpu(target: str, wanted: Facts, device: torch.device) -> None:
    """RuntimeError unless the GPU runs machine code for ``target``."""
    hip = torch.version.hip is not None
    if hip != ("name" in wanted):
        raise RuntimeError(f"this was compiled for {target}; {device} is a GPU of {'AMD' if hip else 'NVIDIA'}")
    if hip:
        name = str(torch.cuda.get_device_properties(device).gcnArchName).partition(":")[0]
        fits = name == wanted["name"]
    else:
        found, least = torch.cuda.get_device_capability(device), tuple(wanted["capability"])
        name = f"of compute capability {found[0]}.{found[1]}"
        fits = found == least if wanted["exactly"] else found[0] == least[0] and found[1] >= least[1]
    if not fits:
        raise RuntimeError(f"this was compiled for {target}; {device} is {name}. Compile it for that")


class Driver:
    """The driver of one GPU: CUDA's, or HIP's, whose functions differ in names."""

    def __init__(self, device: torch.device, hip: bool) -> None:
        self.device, self.hip = device, hip
        self.number = device.index or 0
        self.library = found_driver(hip)
        self.launch_name = "hipModuleLaunchKernel" if hip else "cuLaunchKernel"
        if not hip:
            self.call("cuInit", ctypes.c_uint(0))

    def call(self, name: str, *given: Any) -> None:
        """Call a function; RuntimeError with what the driver says if it fails."""
        failed = self.library[name](*given)
        if failed:
            raise RuntimeError(f"{name} failed on {self.device}: {self.said(failed)} (error {failed})")

    def said(self, failed: int) -> str:
        words = ctypes.c_char_p()
        if self.hip:
            self.library["hipGetErrorString"].restype = ctypes.c_char_p
            words.value = self.library["hipGetErrorString"](failed)
        else:
            self.library["cuGetErrorString"](failed, ctypes.byref(words))
        return (words.value or b"no reason is given").decode()

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """The GPU is PyTorch's current device, and this thread has its context, which it has not where PyTorch has not
        done anything in it yet."""
        with torch.cuda.device(self.device):
            context = ctypes.c_void_p()
            if not self.hip:
                self.call("cuCtxGetCurrent", ctypes.byref(context))
                if not context.value:
                    self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), ctypes.c_int(self.number))
                    self.call("cuCtxSetCurrent", context)
            yield

    def module(self, code: bytes) -> ctypes.c_void_p:
        """Machine code, loaded."""
        with self.current():
            found = ctypes.c_void_p()
            self.call("hipModuleLoadData" if self.hip else "cuModuleLoadData", ctypes.byref(found), code)
            return found

    def function(self, module: ctypes.c_void_p, name: str, shared: int) -> ctypes.c_void_p:
        """A kernel that may use so much shared memory."""
        with self.current():
            found = ctypes.c_void_p()
            get = "hipModuleGetFunction" if self.hip else "cuModuleGetFunction"
            self.call(get, ctypes.byref(found), module, name.encode())
            if shared > PLAIN_SHARED and not self.hip:
                most = ctypes.c_int()
                self.call("cuDeviceGetAttribute", ctypes.byref(most), 97, ctypes.c_int(self.number))
                if shared > most.value:
                    raise RuntimeError(
                        f"{name} takes {shared} bytes of shared memory for a block; {self.device} has {most.value}"
                    )
                self.call("cuFuncSetAttribute", found, 8, ctypes.c_int(shared))
            return found

    def launch(
        self, function: ctypes.c_void_p, blocks: int, threads: int, shared: int, parameters: Sequence[int]
    ) -> None:
        """Launch a kernel on PyTorch's current stream; ``parameters`` are where its parameters lie."""
        places = (ctypes.c_void_p * len(parameters))(*parameters)
        stream = ctypes.c_void_p(torch.cuda.current_stream(self.device).cuda_stream)
        sizes = (ctypes.c_uint(n) for n in (blocks, 1, 1, threads, 1, 1, shared))
        self.call(self.launch_name, function, *sizes, stream, places, None)


def found_driver(hip: bool) -> Any:
    """The library of the driver; RuntimeError if it is not there."""
    names = ["libamdhip64.so", "libamdhip64.so.7", "libamdhip64.so.6"] if hip else ["libcuda.so.1", "libcuda.so"]
    if hip:  # the one that PyTorch has brought along and uses
        names.insert(0, os.path.join(os.path.dirname(torch.__file__), "lib", "libamdhip64.so"))
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise RuntimeError(f"there is no display driver: none of {', '.join(names)} can be loaded")
