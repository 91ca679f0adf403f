"""Threads, processes, large strides, the cost of a call."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
import timeit
from pathlib import Path

import pytest
import torch

import ssmc
from tests.runtime.layers import decay, scan_inputs

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def one_thread_again():  # type: ignore[no-untyped-def]
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_bits_do_not_depend_on_threads(one_thread_again: None) -> None:
    op = ssmc.load("selective_scan")
    inputs = scan_inputs(3, 200, 130, 16)
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        y, state = op(**inputs, return_state=True)
        found.append((y, state["h"]))
    assert all(torch.equal(y, found[0][0]) and torch.equal(h, found[0][1]) for y, h in found)


def test_calls_from_many_threads() -> None:
    op = decay()
    op._forms.clear()
    cases = [(torch.randn(b, t, 6), torch.rand(6)) for b, t in [(1, 1), (2, 9), (3, 4), (1, 30)]]
    wanted = [op(x, a) for x, a in cases]
    op._forms.clear()
    op._recent.clear()
    wrong: list[int] = []

    def work(first: int) -> None:
        for number in range(200):
            at = (first + number) % len(cases)
            y, state = op(*cases[at], return_state=True)
            if not torch.equal(y, wanted[at]) or not torch.equal(op(*cases[at]), wanted[at]):
                wrong.append(at)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


STRIDE = (1 << 31) + 11


NO_RESERVE = 0x4000  # MAP_NORESERVE, which Python's mmap names from 3.13 on


@pytest.mark.skipif(sys.platform != "linux", reason="needs memory that is committed when it is used")
def test_strides_beyond_32_bits() -> None:
    views = []
    for _ in range(2):
        memory = mmap.mmap(-1, 4 * (STRIDE + 32), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
        views.append(torch.frombuffer(memory, dtype=torch.float32).as_strided((2, 4, 5), (STRIDE, 5, 1)))
    x, y = views
    x.copy_(torch.randn(2, 4, 5))
    op, a = decay(), torch.rand(5)
    wanted = op(x.clone(), a)
    assert torch.equal(op(x, a), wanted)
    op(x, a, out=y)
    assert torch.equal(y, wanted)


def test_sizes_beyond_32_bits_in_bytes() -> None:
    op = decay()
    x = torch.randn(1, 1, 3).expand(3, (1 << 20), 3)
    y = op(x, torch.zeros(3))
    assert torch.equal(y[:, ::99991], x[:, ::99991])


RUN = """
import sys, torch, ssmc
torch.manual_seed(0)
op = ssmc.load("causal_conv1d", activation="silu")
y, state = op(torch.randn(2, 9, 5), torch.randn(5, 4), torch.randn(5), return_state=True)
sys.stdout.buffer.write(y.numpy().tobytes() + state["x"].contiguous().numpy().tobytes())
"""


def test_two_processes_at_once(tmp_path: Path) -> None:
    environment = {**os.environ, "SSMC_CACHE_DIR": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", RUN], cwd=ROOT, env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    found = [process.communicate(timeout=120)[0] for process in started]
    assert all(process.returncode == 0 for process in started)
    assert found[0] == found[1] and len(found[0]) == 4 * (2 * 9 * 5 + 2 * 3 * 5)


def best(call) -> float:  # type: ignore[no-untyped-def]
    """Microseconds of a call, the best of many."""
    return min(timeit.repeat(call, number=200, repeat=40)) / 200 * 1e6


@pytest.mark.parametrize("with_state", [False, True])
def test_a_call_costs_little(with_state: bool) -> None:
    """Beyond the compiled entry itself; 8 to 10 µs where this was written, so 40 leaves room for busy machines."""
    op = ssmc.load("selective_scan")
    inputs = {**scan_inputs(1, 1, 64, 16), "z": torch.randn(1, 1, 64), "dt_bias": torch.randn(64)}
    _, state = op(**inputs, return_state=True)
    more = {"state": state, "return_state": True} if with_state else {}
    for _ in range(2):
        op(**inputs, **more)
    call = next(reversed(op._forms.values())).run.__self__
    given = [*inputs.values(), *(state if with_state else ())]
    made = [make() for make in call.makers]
    packed = call.pack(*(v.data_ptr() for v in given), *(v.data_ptr() for v in made))
    plain = best(lambda: call.entry(packed, call.meta, 1))
    whole = best(lambda: op(**inputs, **more))
    assert whole - plain < 40
