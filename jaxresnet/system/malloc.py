"""Tune glibc's malloc, to avoid most page faults of a training step on a CPU.

Every step needs the same memory. By default glibc returns a large block to the system when it is freed, and the system
provides it again, zeroed, page by page: half a million page faults per step of the final model. Two settings help:

- ``keep_freed_blocks`` keeps blocks below ``KEPT_BLOCK`` in the process. Larger ones still go back. The few that a step
  takes would not always fit where they were, and the process would grow by gigabytes.
- ``restart_with_large_pages`` asks for pages of 2 MiB instead of 4 KiB. Only commands use it, because glibc reads that
  setting only when a process starts.

Both do nothing without glibc on Linux, or if ``JAXRESNET_TUNE_MALLOC=0`` is set. ``docs/performance.md`` has the
measurements.
"""

import contextlib
import ctypes
import os
import pathlib
import platform
import sys
from collections.abc import Mapping

VARIABLE = "JAXRESNET_TUNE_MALLOC"
# Keeping every block (M_MMAP_MAX=0) let a process grow from 4.5 to 10.9 GB in 13 steps. One arena for all threads
# (M_ARENA_MAX=1) saves no time, and one process of three still grew with the steps.
KEPT_BLOCK = 2**27  # bytes

_MOST_BEFORE_2_35 = 2**25  # bytes: the highest threshold that glibc accepts before version 2.35
_TUNABLES = "GLIBC_TUNABLES"
_LARGE_PAGES = "glibc.malloc.hugetlb=1"
_HAVE_LARGE_PAGES = (2, 35)  # the first glibc with that setting
_TRANSPARENT_HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")

# Constants of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_blocks() -> None:
    """Keep freed blocks below ``KEPT_BLOCK`` bytes in this process, for later allocations to use."""
    if _glibc_version():
        set_option = ctypes.CDLL(None).mallopt
        # The threshold comes first, because either setting stops glibc from raising it by itself.
        if set_option(_M_MMAP_THRESHOLD, KEPT_BLOCK) or set_option(_M_MMAP_THRESHOLD, _MOST_BEFORE_2_35):
            set_option(_M_TRIM_THRESHOLD, -1)


def restart_with_large_pages() -> None:
    """Replace this process by the same command with large pages, unless it has them or the system has none to give."""
    environment = with_large_pages(os.environ)
    if environment != os.environ and sys.executable:
        with contextlib.suppress(OSError):  # large pages are optional
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def with_large_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a process with large pages.

    It is a copy of ``environment`` if one of these holds: the environment has settings for glibc, glibc is too old or
    is not to be tuned, or the system gives large pages to all processes or to none.
    """
    if _TUNABLES in environment or _glibc_version() < _HAVE_LARGE_PAGES or not _gives_large_pages_if_asked():
        return dict(environment)
    return {**environment, _TUNABLES: _LARGE_PAGES}


def _glibc_version() -> tuple[int, ...]:
    """Return the version of glibc, such as (2, 36); () for another C library, or if malloc is to be left alone."""
    if os.environ.get(VARIABLE) == "0" or sys.platform != "linux":
        return ()
    name, version = platform.libc_ver()
    return tuple(map(int, version.split("."))) if name == "glibc" else ()


def _gives_large_pages_if_asked() -> bool:
    try:
        return "[madvise]" in _TRANSPARENT_HUGE_PAGES.read_text(encoding="utf-8")
    except OSError:
        return False
