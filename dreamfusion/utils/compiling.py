"""Compiles numba kernels and caches their machine code on disk if possible.

Numba's `cache=True` raises if no folder is writable, or if a cache file was damaged by a kill or a
full disk. Here, the kernel is then compiled again.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache

Function = Callable[..., Any]


def compiled(**options: Any) -> Callable[[Function], Any]:
    """A decorator like `numba.njit(cache=True, **options)` that also works without a cache."""

    def decorate(function: Function) -> Any:
        dispatcher = numba.njit(**options)(function)
        # With NUMBA_DISABLE_JIT=1, the dispatcher is the function itself.
        if dispatcher is not function and (cache := _disk_cache(function)) is not None:
            dispatcher._cache = cache
        return dispatcher

    return decorate


def cache_folder() -> Path | None:
    """The cache folder of machine code; None if no folder is writable."""
    cache = _disk_cache(cache_folder)
    return None if cache is None else Path(cache.cache_path)


class _Cache(FunctionCache):
    """Numba's cache of a kernel, with errors of the cache suppressed."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The cached code; None if it cannot be read, which makes numba compile it."""
        try:
            return super().load_overload(sig, target_context)
        # Damaged pickles raise many kinds of errors: EOFError, ValueError, AttributeError, …
        except Exception:
            with suppress(OSError):
                self.flush()  # a damaged index would also prevent saving new code
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Cache code, unless the folder is full or not writable, or a damaged index cannot be
        replaced."""
        with suppress(Exception):
            super().save_overload(sig, data)


def _disk_cache(function: Function) -> _Cache | None:
    """The cache of a kernel in numba's default folder; None if no folder is writable."""
    # Without a home, numba would create a folder named "~" in the working directory.
    if not numba.config.CACHE_DIR and not os.path.isabs(os.path.expanduser("~")):
        return None
    try:
        return _Cache(function)
    except (RuntimeError, OSError):
        return None
