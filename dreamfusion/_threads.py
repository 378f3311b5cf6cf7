"""Threads for the compiled CPU kernels.

The numba kernels release the GIL and are handed disjoint pieces of work by a plain thread pool,
as many threads as torch uses. Numba's own `prange` is not used: its thread pool is picked at run
time among several, one of which aborts the process when two Python threads enter it at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch

_pools: dict[int, ThreadPoolExecutor] = {}

# Threads do not survive a fork: a child that reused its parent's pool would wait forever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)


def run_all(jobs: Sequence[Callable[[], None]]) -> None:
    """Run every job, on `torch.get_num_threads()` threads; the first exception is raised here.

    Jobs must write to disjoint memory, which also makes the result independent of their order
    and of the number of threads.
    """
    n_threads = min(torch.get_num_threads(), len(jobs))
    if n_threads <= 1:
        for job in jobs:
            job()
        return
    if n_threads not in _pools:
        _pools[n_threads] = ThreadPoolExecutor(n_threads, thread_name_prefix="dreamfusion")
    futures = [_pools[n_threads].submit(job) for job in jobs]
    for future in futures:
        future.result()


def ranges(n: int, *, at_least: int) -> list[tuple[int, int]]:
    """Cut range(n) into a few (start, stop) pieces per thread, none shorter than `at_least`."""
    n_pieces = max(1, min(4 * torch.get_num_threads(), n // at_least))
    bounds = [n * i // n_pieces for i in range(n_pieces + 1)]
    return list(pairwise(bounds))
