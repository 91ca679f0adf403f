"""A kernel with those that come before it in the same launch → CUDA C: see ``ssmc.passes.joined``.

look_back   the summary of the block's part; wait; carry; leave that to the next; the part
lanes       of 32 parts at a time, one for each lane of a warp: summary; scan; the part
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

from ssmc.ir import COMPLEX, REAL
from ssmc.ir.loops import Kernel, Passed
from ssmc.ir.scalar import part_names

from .cuda_kernel import KernelEmitter
from .launch import WARP, Launch

_TICKET = 16  # bytes of shared memory in which a block finds its number


class PartsEmitter:
    """Writes one such kernel; ``emitter`` makes what writes each of its kernels."""

    def __init__(self, kernel: Kernel, emitter: Callable[[Kernel], KernelEmitter]) -> None:
        assert kernel.joined is not None and kernel.part is not None
        self.kernel, self.joined, self.part = kernel, kernel.joined, kernel.part
        self.whole = emitter(kernel)
        self.summaries = [emitter(k) for k in self.joined.summaries]
        self.carries = [(emitter(k), passed) for k, passed in self.joined.carries]
        self.out, self.names, self.x = self.whole.out, self.whole.names, self.whole.x
        self.grid = tuple(a for a in kernel.grid if a != kernel.part)
        self.cut = str(self.joined.carries[0][0].time)
        self.kept = {name: self._states(name) for name in sorted(self.joined.kept)}
        for one in self._all():
            one.x.kept = self.kept

    def run(self) -> Launch:
        """The text of the kernel goes to ``out``; how it is launched is returned."""
        k, whole, looks_back = self.kernel, self.whole, self.joined.way == "look_back"
        tensors = dict.fromkeys(name for one in self._all() for name in one.touched() if name not in self.kept)
        used = {self.part, self.cut}.union(*(one.used() for one in self._all()))
        with self.out.block(whole.head()):
            whole.sizes(used)
            whole.pointers(tensors, {item.value for _, passed in self.carries for item in passed})
            (self._look_back if looks_back else self._lanes)()
        self.out.line()
        threads, shared = whole.block.threads, max(one.shared for one in self._all())
        if looks_back:
            shared = max(shared, _TICKET)
            return Launch(whole.name, self.grid, k.lane, k.time, 0, threads, threads, shared, waits=self.part)
        return Launch(whole.name, self.grid, k.lane, k.time, 0, threads, 0, shared, width=WARP)

    def _all(self) -> Iterator[KernelEmitter]:
        yield from self.summaries
        yield from (one for one, _ in self.carries)
        yield self.whole

    # ------------------------------------------------------------ a block has a part

    def _look_back(self) -> None:
        out, whole = self.out, self.whole
        points = [*self._points(self.grid), whole.group_of_lanes()]
        out.line("SSMC_SHARED(ssmc_shared);")
        out.line("uint32_t ticket = SSMC_BLOCK; /* of one part nobody waits */")
        out.line(f"if ({self.x.size(self.part)} > 1) ticket = ssmc_ticket(a.signals, (uint32_t *)ssmc_shared);")
        out.line(f"const uint32_t columns = {whole.all_of(points)};")
        out.line("const int64_t turn = ticket / columns;")
        out.line("uint32_t point = ticket % columns;")
        out.line("uint32_t *const signal = a.signals + 1 + point;")
        whole.dealt(points)
        whole.own_lane()
        self._registers(self.kept)
        with self._unless_last():
            self._summarised()
        out.line("if (turn) ssmc_await(signal, (uint32_t)turn);")
        with self._unless_last():
            for one, _ in self.carries:
                with self._nest(self._along(one.kernel)):
                    self._passed_on(one)
            out.line("ssmc_leave(signal, (uint32_t)turn + 1);")
        self._rerun()

    def _passed_on(self, one: KernelEmitter) -> None:
        """The one step of a carry over the cut after the part."""
        one.keep()
        one.groups.groups("before")
        with self.out.block("if (turn)"):
            self._name("turn", self.cut)
            one.groups.groups("enter")
        self.out.line("const int64_t start = turn, stop = turn + 1;")
        one.groups.steps()

    # ------------------------------------------------------------ a lane has a part

    def _lanes(self) -> None:
        out, whole = self.out, self.whole
        points = self._points((*self.grid, str(self.kernel.lane)))
        out.line(f"const int lane = SSMC_THREAD % {WARP};")
        out.line(f"uint32_t point = SSMC_BLOCK * (SSMC_THREADS / {WARP}) + SSMC_THREAD / {WARP};")
        out.line(f"if (point >= {whole.all_of(points)}) return;")
        whole.dealt(points)
        self._registers(self.kept)
        self._registers((item.value for _, passed in self.carries for item in passed), "left")
        for one, passed in self.carries:
            with self._nest(self._along(one.kernel)):
                one.keep()
                one.groups.groups("before")
                for item in passed:
                    self._begun(one, item)
        with out.block(f"for (int64_t first = 0; first < {self.x.size(self.part)}; first += {WARP})"):
            out.line("const int64_t turn = first + lane;")
            with self._unless_last():
                self._summarised()
            for _, passed in self.carries:
                for item in passed:
                    self._scanned(item)
            with out.block(f"if (turn < {self.x.size(self.part)})"):
                self._rerun()

    def _begun(self, one: KernelEmitter, item: Passed) -> None:
        """What is passed on before the first part."""
        ring = one.x.rings[item.value]
        with self._nest(ring.dims):
            for part in ring.parts:
                inner = [self.names.get("i", axis) for axis in ring.dims]
                start = one.x.ring_element(ring.tensor, part, "1", inner, end=False)
                self.out.line(f"{self._place('left', item.value, part)} = {start};")

    def _scanned(self, item: Passed) -> None:
        """What is passed on to each lane's part, and what the last one leaves."""
        parts = part_names(self.whole.tensors[item.value].dtype)
        function = "ssmc_warp_scan" if len(parts) == 1 else "ssmc_warp_scan_complex"
        self.x.needed.add(function)
        with self._nest(self.kept[item.value]):
            self._name("turn", self.cut)
            given = [self._unless_beyond(item.factor, p, "1" if p == "re" else "0") for p in parts]
            given += [self._unless_beyond(item.addend, p, "0") for p in parts]
            given += [f"&{self._place('left', item.value, p)}" for p in parts]
            given += [f"&{self._place('e', item.value, p)}" for p in parts]
            self.out.line(f"{function}<{self._type(item.value)}>({', '.join(given)});")

    def _unless_beyond(self, tensor: str | None, part: str, otherwise: str) -> str:
        """The number at the present cut, if there is that cut."""
        if tensor is None:
            return otherwise
        if tensor in self.kept:
            value = self._place("e", tensor, part)
        else:
            indices = [self.names.get("i", axis) for axis in self.whole.tensors[tensor].axes]
            value = self.x.widen(self.x.element(tensor, part, indices), self.x.storage[tensor])
        return f"turn < {self.x.size(self.cut)} ? {value} : {otherwise}"

    # ------------------------------------------------------------ both

    def _summarised(self) -> None:
        """What the part makes of the state with which it begins."""
        self._name("turn", self.cut)
        for one in self.summaries:
            with self._nest(self._along(one.kernel)):
                one.body()

    def _rerun(self) -> None:
        with self.out.block(""):
            self._name("turn", self.part)
            self.whole.body()

    def _unless_last(self) -> AbstractContextManager[None]:
        """Where there is a cut after the part."""
        return self.out.block(f"if (turn < {self.x.size(self.cut)})")

    def _name(self, turn: str, axis: str) -> None:
        """Name the index along an axis of parts or cuts that comes so many in the order of time."""
        index = f"{self.x.size(axis)} - 1 - {turn}" if self.kernel.reverse else turn
        self.out.line(f"const int64_t {self.names.get('i', axis)} = {index};")

    def _points(self, axes: Iterable[str]) -> list[tuple[str, str]]:
        return [(self.names.get("i", axis), self.x.size(axis)) for axis in axes]

    def _states(self, tensor: str) -> tuple[str, ...]:
        """The axes of a tensor over cuts along which a thread has all of it."""
        return tuple(a for a in self.whole.tensors[tensor].axes if a not in (*self.grid, self.kernel.lane, self.cut))

    def _along(self, kernel: Kernel) -> tuple[str, ...]:
        """Axes of a kernel's grid that a thread runs through: those of states."""
        inner = set().union(*(self.whole.tensors[name].axes for name in kernel.tensors))
        outside = (*self.grid, self.kernel.lane, kernel.part, self.part)
        return tuple(a for a in kernel.grid if a in inner and a not in outside)

    def _registers(self, tensors: Iterable[str], prefix: str = "e") -> None:
        """Declare what a thread keeps of tensors over cuts."""
        for tensor in tensors:
            axes = self._states(tensor)
            shape = "".join(f"[{self.whole.fixed[a]}]" for a in axes)
            for part in part_names(self.whole.tensors[tensor].dtype):
                self.out.line(f"{self._type(tensor)} {self.names.get(prefix, f'{tensor} {part}')}{shape};")

    def _type(self, tensor: str) -> str:
        """What a number of a tensor is computed in."""
        dtype = self.whole.tensors[tensor].dtype
        return self.x.c_type(REAL if dtype is COMPLEX else dtype)

    def _place(self, prefix: str, tensor: str, part: str) -> str:
        """The entry of such a tensor at the present indices."""
        at = "".join(f"[{self.names.get('i', axis)}]" for axis in self._states(tensor))
        return self.names.get(prefix, f"{tensor} {part}") + at

    @contextmanager
    def _nest(self, axes: tuple[str, ...]) -> Iterator[None]:
        """Loops, written out so that arrays along their axes are registers, or a block where there are none."""
        if not axes:
            with self.out.block(""):
                yield
            return
        name = self.names.get("i", axes[0])
        self.out.line("#pragma unroll")
        head = f"for (int64_t {name} = 0; {name} < {self.x.size(axes[0])}; ++{name})"
        with self.out.block(head), self._nest(axes[1:]):
            yield
