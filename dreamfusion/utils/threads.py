"""Threads for CPU work that consists of independent pieces.

A thread pool runs the pieces: compiled kernels, which release the GIL, or torch operations on one
piece each. Torch by itself splits every operation among its threads and synchronises them after
each, hundreds of times per step; here they synchronise once, at the end.

Numba's `prange` is not used: it chooses one of several thread pools at run time, and one of these
aborts the process if two Python threads enter it at once.
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
    """Number of threads for CPU work: torch's number outside `fixed_order`."""
    return torch.get_num_threads() if _workers is None else _workers


@contextmanager
def fixed_order() -> Iterator[None]:
    """Run torch's own operations on one thread during the block; `run_all` still uses all.

    Results then do not depend on the number of threads. With several threads, torch splits an
    operation into one part per thread: exp and log use other code at the ends of a part, sums over
    a tensor have another order, and gradients of repeated indices an arbitrary one.
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
    """Run all jobs, without gradients; returns the results in order. Raises the first exception.

    The jobs share the `n_workers()` threads; torch's own operations use `torch_threads` of them per
    job. Jobs must write to disjoint memory, which makes the result independent of their order and
    of the number of threads.
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
    """Split range(n) into this many pieces of nearly equal length: (start, stop) of each."""
    return list(pairwise(n * i // n_pieces for i in range(n_pieces + 1)))


def _pool(n_threads: int, torch_threads: int) -> ThreadPoolExecutor:
    key = (n_threads, torch_threads)
    if key not in _pools:
        pool = ThreadPoolExecutor(n_threads, thread_name_prefix="dreamfusion")
        everyone = Barrier(n_threads)

        def begin() -> None:
            torch.get_num_threads()  # the first use in a thread would otherwise reset it
            torch.set_num_threads(torch_threads)
            torch.set_grad_enabled(False)
            everyone.wait()

        n_torch_threads = torch.get_num_threads()
        for future in [pool.submit(begin) for _ in range(n_threads)]:
            future.result()
        # Both numbers are thread-local, but a new thread starts with the last number set anywhere.
        torch.set_num_threads(n_torch_threads)
        _pools[key] = pool
    return _pools[key]
