"""Settings of glibc's malloc that spare a training step on a CPU most of its page faults.

A step takes the same memory as the step before it. By default glibc returns every large block to the system when it is
freed, and the system provides it anew, zeroed, page by page: 525,000 page faults per step of the final model. Two
settings change that:

- ``keep_freed_blocks`` keeps blocks below ``KEPT_BLOCK`` in the process. Larger ones still go back, because the few
  that a step takes would not always fit where they were, and the process would grow by gigabytes.
- ``restart_with_large_pages`` asks for pages of 2 MiB instead of 4 KiB. glibc reads that setting only when a process
  starts, so it is for commands alone.

Both leave everything as it is unless the C library is glibc on Linux, or if ``JAXRESNET_TUNE_MALLOC=0`` is set.
``docs/performance.md`` has the measurements.
"""

import ctypes
import os
import pathlib
import sys
from collections.abc import Mapping

VARIABLE = "JAXRESNET_TUNE_MALLOC"
KEPT_BLOCK = 2**27  # bytes

_TUNABLES = "GLIBC_TUNABLES"
_LARGE_PAGES = "glibc.malloc.hugetlb=1"
_TRANSPARENT_HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def keep_freed_blocks() -> bool:
    """Keep freed blocks below ``KEPT_BLOCK`` bytes in this process, for later allocations to use.

    Returns:
        True if glibc accepted the settings.
    """
    if not _is_tunable():
        return False
    libc = ctypes.CDLL(None)
    # One arena for all threads, because an arena of a thread returns a part that is empty whatever the threshold is.
    settings = {_M_ARENA_MAX: 1, _M_MMAP_THRESHOLD: KEPT_BLOCK, _M_TRIM_THRESHOLD: -1}
    return all([libc.mallopt(*setting) for setting in settings.items()])


def restart_with_large_pages() -> None:
    """Replace this process by the same command with large pages, unless it has them or the system has none to give."""
    environment = with_large_pages(os.environ)
    if environment != os.environ:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def with_large_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that is to use large pages.

    It is the one given where that process needs no setting: the system gives large pages to all processes or to none,
    or the user has settings for glibc of their own.
    """
    if _TUNABLES in environment or not _is_tunable() or not _gives_large_pages_if_asked():
        return dict(environment)
    return {**environment, _TUNABLES: _LARGE_PAGES}


def _is_tunable() -> bool:
    if os.environ.get(VARIABLE) == "0" or sys.platform != "linux":
        return False
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc ")
    except (OSError, ValueError):  # another C library
        return False


def _gives_large_pages_if_asked() -> bool:
    try:
        return "[madvise]" in _TRANSPARENT_HUGE_PAGES.read_text()
    except OSError:
        return False
