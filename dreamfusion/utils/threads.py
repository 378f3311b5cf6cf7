"""Threads for work on the CPU that falls into independent pieces.

A plain thread pool takes the pieces: compiled kernels, which release the GIL, and torch's own
operations on one piece each. Torch by itself parts every single operation among its threads and
waits for all of them before the next, hundreds of times in a step; here they meet once, at the end.

Numba's own `prange` is not used: its thread pool is picked at run time among several, one of which
aborts the process when two Python threads enter it at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from threading import Barrier
from typing import TypeVar

import torch

T = TypeVar("T")

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}

# Threads do not survive a fork: a child that reused its parent's pool would wait forever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)


_workers: int | None = None  # set by `fixed_order`


def n_workers() -> int:
    """How many threads work on the CPU may use: torch's number, as it was outside `fixed_order`."""
    return torch.get_num_threads() if _workers is None else _workers


@contextmanager
def fixed_order() -> Iterator[None]:
    """Give torch's own operations one thread for the time of the block; `run_all` keeps all.

    Results then do not depend on the number of threads. With several, torch cuts an operation into
    one part a thread. The ends of a part take another exp or log than its middle, a sum over a
    whole tensor adds up in another order, and gradients of repeated indices in any order at all.
    """
    global _workers
    outer, before = _workers, torch.get_num_threads()
    _workers = n_workers()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _workers = outer


def run_all(jobs: Sequence[Callable[[], T]], *, torch_threads: int = 1) -> list[T]:
    """Run every job, without gradients; their results in order. The first exception is raised here.

    They share the `n_workers()` threads; each job has `torch_threads` of them for torch's own
    operations. Jobs must write to disjoint memory, which also makes the result independent of their
    order and of the number of threads.
    """
    n_threads = max(1, min(n_workers() // torch_threads, len(jobs)))
    if n_threads == 1 and torch.get_num_threads() == torch_threads:
        with torch.no_grad():
            return [job() for job in jobs]
    pool = _pool(n_threads, torch_threads)
    futures = [pool.submit(job) for job in jobs]
    return [future.result() for future in futures]


def run_pieces(kernel: Callable[..., object], n: int, *arguments: object, at_least: int) -> None:
    """Run kernel(start, stop, *arguments) for pieces of range(n): a few per thread, none shorter
    than `at_least`."""
    n_pieces = max(1, min(4 * n_workers(), n // at_least))
    run_all([partial(kernel, start, stop, *arguments) for start, stop in pieces(n, n_pieces)])


def pieces(n: int, n_pieces: int) -> list[tuple[int, int]]:
    """range(n) cut into so many pieces, as even as can be: (start, stop) of each."""
    return list(pairwise(n * i // n_pieces for i in range(n_pieces + 1)))


def _pool(n_threads: int, torch_threads: int) -> ThreadPoolExecutor:
    key = (n_threads, torch_threads)
    if key not in _pools:
        pool = ThreadPoolExecutor(n_threads, thread_name_prefix="dreamfusion")
        everyone = Barrier(n_threads)

        def begin() -> None:
            torch.get_num_threads()  # a thread's first use of the number would undo what was set
            torch.set_num_threads(torch_threads)
            torch.set_grad_enabled(False)
            everyone.wait()

        mine = torch.get_num_threads()
        for future in [pool.submit(begin) for _ in range(n_threads)]:
            future.result()
        # Both are each thread's own, but a new thread begins with the last number that anyone set.
        torch.set_num_threads(mine)
        _pools[key] = pool
    return _pools[key]
