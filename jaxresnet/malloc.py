"""Settings of glibc's malloc that spare a training step on a CPU most of its page faults.

A step takes the same memory as the step before it. By default glibc returns every large block to the system when it is
freed, and the system provides it anew, zeroed, page by page: half a million page faults per step of the final model.
Two settings change that:

- ``keep_freed_blocks`` keeps blocks below ``KEPT_BLOCK`` in the process. Larger ones still go back, because the few
  that a step takes would not always fit where they were, and the process would grow by gigabytes.
- ``restart_with_large_pages`` asks for pages of 2 MiB instead of 4 KiB. glibc reads that setting only when a process
  starts, so it is for commands alone.

Both leave everything as it is unless the C library is glibc on Linux, or if ``JAXRESNET_TUNE_MALLOC=0`` is set.
``docs/performance.md`` has the measurements.
"""

import contextlib
import ctypes
import os
import pathlib
import sys
from collections.abc import Mapping

VARIABLE = "JAXRESNET_TUNE_MALLOC"
KEPT_BLOCK = 2**27  # bytes

_MOST_BEFORE_2_35 = 2**25  # bytes: a higher threshold is refused by glibc before that version
_TUNABLES = "GLIBC_TUNABLES"
_LARGE_PAGES = "glibc.malloc.hugetlb=1"
_HAVE_LARGE_PAGES = (2, 35)  # the first glibc with that setting
_TRANSPARENT_HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
_RESTARTED = "jaxresnet_restarted"  # an option of -X, which Python keeps and passes on to no other process

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_blocks() -> bool:
    """Keep freed blocks below ``KEPT_BLOCK`` bytes in this process, for later allocations to use.

    Returns:
        True if glibc accepted the settings.
    """
    if not _glibc_version():
        return False
    set_option = ctypes.CDLL(None).mallopt
    # First, because either setting stops glibc from raising this threshold by itself.
    if not any(set_option(_M_MMAP_THRESHOLD, size) for size in (KEPT_BLOCK, _MOST_BEFORE_2_35)):
        return False
    return bool(set_option(_M_TRIM_THRESHOLD, -1))


def restart_with_large_pages() -> None:
    """Replace this process by the same command with large pages, unless the system has none to give."""
    if _RESTARTED in sys._xoptions:
        os.environ.pop(_TUNABLES, None)  # which glibc has read, and no other command was to have
        return
    environment = with_large_pages(os.environ)
    if environment != os.environ and sys.executable:
        with contextlib.suppress(OSError):  # it can do without
            os.execve(sys.executable, [sys.executable, "-X", _RESTARTED, *sys.orig_argv[1:]], environment)


def with_large_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that is to use large pages.

    It is the one given where that process needs no setting: the system gives large pages to all processes or to none,
    or the user has settings for glibc of their own.
    """
    if _TUNABLES in environment or _glibc_version() < _HAVE_LARGE_PAGES or not _gives_large_pages_if_asked():
        return dict(environment)
    return {**environment, _TUNABLES: _LARGE_PAGES}


def _glibc_version() -> tuple[int, ...]:
    """Return the version of glibc, such as (2, 36); () for another C library, or if malloc is to be left alone."""
    if os.environ.get(VARIABLE) == "0" or sys.platform != "linux":
        return ()
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        return tuple(map(int, version.split("."))) if name == "glibc" else ()
    except (OSError, ValueError):  # another C library
        return ()


def _gives_large_pages_if_asked() -> bool:
    try:
        return "[madvise]" in _TRANSPARENT_HUGE_PAGES.read_text()
    except OSError:
        return False
