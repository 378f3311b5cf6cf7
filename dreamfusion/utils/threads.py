"""Runs independent pieces of CPU work in a thread pool.

The pieces are compiled kernels, which release the GIL, or torch operations on parts of a batch. By
default, torch splits every operation among its threads and synchronises them after each operation,
hundreds of times per step. Here, they synchronise once, at the end. Numba's `prange` is not used:
one of its threading layers aborts the process if two Python threads enter it at once.
"""

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

# Threads do not survive a fork: a child process would wait forever for its parent's pool.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)

_workers: int | None = None  # set by `fixed_order`


def n_workers() -> int:
    """Number of threads for CPU work: torch's number of threads outside `fixed_order`."""
    return torch.get_num_threads() if _workers is None else _workers


@contextmanager
def fixed_order() -> Iterator[None]:
    """Run torch operations on one thread during the block; `run_all` still uses all threads.

    Results then do not depend on the number of threads. With several threads, torch splits an
    operation into one part per thread. Then exp and log use different code at the ends of a part,
    sums depend on the parts, and gradients of repeated indices have an arbitrary order.
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
    """Run all jobs without gradients, and return the results in order. Raises the first exception.

    The jobs share `n_workers()` threads; torch operations use `torch_threads` of them per job. Jobs
    must write to disjoint memory, so that the result does not depend on their order or on the
    number of threads.
    """
    n_threads = max(1, min(n_workers() // torch_threads, len(jobs)))
    if n_threads == 1 and torch.get_num_threads() == torch_threads:
        with torch.no_grad():
            return [job() for job in jobs]
    pool = _pool(n_threads, torch_threads)
    futures = [pool.submit(job) for job in jobs]
    return [future.result() for future in futures]


def run_pieces(kernel: Callable[..., object], n: int, *arguments: object, at_least: int) -> None:
    """Run kernel(start, stop, *arguments) for pieces of range(n): a few per thread, each of length
    `at_least` or more."""
    n_pieces = max(1, min(4 * n_workers(), n // at_least))
    run_all([partial(kernel, start, stop, *arguments) for start, stop in pieces(n, n_pieces)])


def pieces(n: int, n_pieces: int) -> list[tuple[int, int]]:
    """Split range(n) into pieces of nearly equal length; returns (start, stop) of each."""
    return list(pairwise(n * i // n_pieces for i in range(n_pieces + 1)))


def _pool(n_threads: int, torch_threads: int) -> ThreadPoolExecutor:
    key = (n_threads, torch_threads)
    if key not in _pools:
        pool = ThreadPoolExecutor(n_threads, thread_name_prefix="dreamfusion")
        all_started = Barrier(n_threads)

        def initialise() -> None:
            torch.get_num_threads()  # otherwise, the first use in a thread resets the number
            torch.set_num_threads(torch_threads)
            torch.set_grad_enabled(False)
            all_started.wait()

        n_torch_threads = torch.get_num_threads()
        for future in [pool.submit(initialise) for _ in range(n_threads)]:
            future.result()
        # The number is thread-local, but a new thread starts with the last number set anywhere.
        torch.set_num_threads(n_torch_threads)
        _pools[key] = pool
    return _pools[key]
