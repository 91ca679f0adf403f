"""Machine code for NVIDIA GPUs, launched through the CUDA driver on PyTorch's current stream.

A ``Launcher`` is to a cubin what the entry is to a C library: a function of packed pointers, extents and strides. It
waits for nothing, and allocates nothing but zeros with which blocks signal, by PyTorch: CUDA graphs capture what it
does.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ssmc.backends import Launch, Piece, cuda_toolchain
from ssmc.errors import ToolchainError
from ssmc.ir.loops import Limits

PLANS_KEPT = 1024
USUAL_SHARED = 48 << 10  # bytes of shared memory that a block gets without asking


def driver() -> Any:
    """The driver's functions, as ``cuda.bindings`` has them.

    Raises ToolchainError if they, or the driver behind them, are not there.
    """
    try:
        from cuda.bindings import driver as found
    except ImportError as error:
        raise ToolchainError(
            "tensors on a GPU need cuda-bindings, which is not installed", hint="pip install 'ssmc[gpu]'"
        ) from error
    try:
        checked(found, "cuInit", 0)
    except RuntimeError as error:  # the bindings' own, where there is no library to load
        raise ToolchainError(
            f"there is no NVIDIA driver: {error}", hint="install the display driver, or use tensors on the CPU"
        ) from error
    return found


def checked(functions: Any, name: str, *arguments: Any) -> Any:
    """What a function of the driver gives; ToolchainError, with what the driver says, if it fails."""
    failed, *given = getattr(functions, name)(*arguments)
    if failed:
        _, words = functions.cuGetErrorString(failed)
        said = words.decode() if words else "no reason is given"
        raise ToolchainError(f"{name} failed: {said} ({getattr(failed, 'name', failed)})")
    return given[0] if given else None


def limits_of(functions: Any, number: int) -> Limits:
    """What a GPU offers to one block."""
    names, device = functions.CUdevice_attribute, checked(functions, "cuDeviceGet", number)
    wanted = (
        names.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        names.CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK,
    )
    return Limits(*(int(checked(functions, "cuDeviceGetAttribute", name, device)) for name in wanted))


def have_context(functions: Any, number: int) -> None:
    """A thread in which PyTorch has not done anything yet has no context: give it the one of the GPU, PyTorch's."""
    if not int(checked(functions, "cuCtxGetCurrent")):
        device = checked(functions, "cuDeviceGet", number)
        checked(functions, "cuCtxSetCurrent", checked(functions, "cuDevicePrimaryCtxRetain", device))


def architecture_for(capability: tuple[int, int]) -> str:
    """The architecture to compile for, for a GPU of that compute capability: the newest of the same generation that it
    is not older than, whose machine code it runs.

    Raises ToolchainError if there is none.
    """
    fitting = []
    for name in cuda_toolchain.ARCHITECTURES:
        number = int(name.removeprefix("sm_"))
        if number // 10 == capability[0] and number % 10 <= capability[1]:
            fitting.append((number, name))
    if not fitting:
        major, minor = capability
        raise ToolchainError(
            f"this GPU has compute capability {major}.{minor}, for which no kernels can be made",
            expected=", ".join(sorted(cuda_toolchain.ARCHITECTURES)) + " or newer of the same generation",
        )
    return max(fitting)[1]


class Launcher:
    """The entry of a cubin; see ``docs/architecture.md``.

    Args:
        cubin: the machine code.
        launches: its kernels, in the order in which they run.
        axes: axes whose extents are passed, in order.
        fixed: extents that are compiled in.
        numbers: how many numbers ``meta`` holds.
        device: the number of the GPU.
        stream: gives the stream to launch on, as a number.
        functions: those of the driver.
        zeros: gives so many zeros of 32 bits in memory of the GPU, on that stream.

    Raises ToolchainError if the GPU cannot run the code, or has too little shared memory for it.
    """

    def __init__(
        self,
        cubin: bytes,
        launches: Sequence[Launch],
        axes: Sequence[str],
        fixed: Mapping[str, int],
        numbers: int,
        device: int,
        stream: Callable[[], int],
        functions: Any,
        zeros: Callable[[int], Any],
    ) -> None:
        self._zeros = zeros
        self._launches, self._axes, self._fixed = tuple(launches), tuple(axes), dict(fixed)
        self._numbers, self._stream, self._driver, self._device = numbers, stream, functions, device
        self._thread = threading.local()
        self._enter()
        self._library = checked(functions, "cuLibraryLoadData", cubin, [], [], 0, [], [], 0)
        self._kernels = [self._kernel(launch, device) for launch in self._launches]
        self._plans: dict[tuple[int, ...], list[tuple[Any, Launch, Piece]]] = {}

    def _kernel(self, launch: Launch, device: int) -> Any:
        """A kernel that may use the shared memory that it takes."""
        kernel = checked(self._driver, "cuLibraryGetKernel", self._library, launch.kernel.encode())
        function = checked(self._driver, "cuKernelGetFunction", kernel)
        if launch.shared > USUAL_SHARED:
            attribute = self._driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
            most = checked(
                self._driver, "cuDeviceGetAttribute", attribute, checked(self._driver, "cuDeviceGet", device)
            )
            if launch.shared > most:
                raise ToolchainError(
                    f"{launch.kernel} takes {launch.shared} bytes of shared memory for a block; this GPU has {most}"
                )
            wanted = self._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            checked(self._driver, "cuFuncSetAttribute", function, wanted, launch.shared)
        return function

    def __call__(self, pointers: bytes, meta: bytes, threads: int) -> int:
        """Launch all kernels. ``pointers`` and ``meta`` are packed as a C entry takes them; gives 0."""
        self._enter()
        extents = struct.unpack_from(f"{len(self._axes)}q", meta)
        plan = self._plans.get(extents)
        if plan is None:
            if len(self._plans) >= PLANS_KEPT:
                self._plans.clear()
            plan = self._plans[extents] = self._planned(extents)
        stream = self._stream()
        head = bytes(pointers) + bytes(meta)[: 8 * self._numbers]
        for function, launch, piece in plan:
            # Memory that is freed is given to none but what comes later on the same stream.
            signals = self._zeros(piece.signals) if piece.signals else None
            tail = struct.pack("3q", piece.first, piece.count, 0 if signals is None else signals.data_ptr())
            arguments = ctypes.create_string_buffer(head + tail, len(head) + len(tail))
            places = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
            given = (function, piece.blocks, 1, 1, piece.threads, 1, 1, launch.shared, stream,
                     ctypes.addressof(places), 0)  # fmt: skip
            checked(self._driver, "cuLaunchKernel", *given)
        return 0

    def _enter(self) -> None:
        """See to it, once for each thread, that there is a context."""
        if not hasattr(self._thread, "entered"):
            have_context(self._driver, self._device)
            self._thread.entered = True

    def _planned(self, extents: Sequence[int]) -> list[tuple[Any, Launch, Piece]]:
        """What is launched for these extents."""
        known = {**self._fixed, **dict(zip(self._axes, extents, strict=True))}
        return [
            (function, launch, piece)
            for launch, function in zip(self._launches, self._kernels, strict=True)
            for piece in launch.pieces(known)
        ]
