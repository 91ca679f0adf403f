"""A driver of Triton's that has no device: Triton compiles for it, and what it would launch is written down."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest


@dataclass
class Launched:
    """One launch: how many programs on which stream, and what the kernel is given but for what is compiled in."""

    kernel: str
    programs: int
    stream: int
    given: tuple[Any, ...]
    warps: int


@dataclass
class Driver:
    """What Triton asks of the driver of a GPU: ``sm_90``, ``gfx942`` and the like, with so much shared memory for a
    block and so many threads at most. ``device`` and ``stream`` are the present ones."""

    architecture: str
    shared: int = 227 << 10
    threads: int = 1024
    spilled: int = 0
    device: int = 0
    stream: int = 77
    launched: list[Launched] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)

    @property
    def utils(self) -> Any:
        return SimpleNamespace(
            get_device_properties=lambda device: {"max_shared_mem": self.shared, "warpSize": 32},
            load_binary=self._load,
            unload_module=lambda module: None,
        )

    def _load(self, name: str, code: bytes, shared: int, device: int) -> tuple[Any, ...]:
        assert code[:4] == b"\x7fELF" and device == self.device
        self.loaded.append(name)
        return object(), name, 32, self.spilled, self.threads

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        def launch(x: int, y: int, z: int, stream: int, function: str, *rest: Any) -> None:
            assert (y, z) == (1, 1)
            self.launched.append(Launched(function, x, stream, rest[-len(source.fn.arg_names) :], metadata.num_warps))

        return launch

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int) -> int:
        assert device == self.device
        return self.stream

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        if self.architecture.startswith("sm_"):
            return GPUTarget("cuda", int(self.architecture.removeprefix("sm_")), 32)
        return GPUTarget("hip", self.architecture, 64)

    def use(self, patch: pytest.MonkeyPatch) -> Driver:
        """Make it Triton's driver until ``patch`` is undone."""
        from triton.runtime import driver

        patch.setattr(driver, "_active", self)
        return self
