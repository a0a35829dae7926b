"""Set up JAX, and describe the devices and software of a run."""

import contextlib
import ctypes
import functools
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax

import jaxresnet
from jaxresnet.system.files import cache_folder

# JAX's settings that change numbers. An environment variable such as JAX_ENABLE_X64 sets each, besides XLA_FLAGS.
_SETTINGS = (
    *("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable"),
    *("jax_random_seed_offset", "jax_disable_jit", "jax_numpy_dtype_promotion"),
)
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")

_XLA_FLAGS = (
    "--xla_cpu_collective_call_terminate_timeout_seconds=3600",  # or a core 40 s late, on a busy machine, ends all
    "--xla_cpu_parallel_codegen_split_count=4",  # 32 parts of a program, the default, take more memory to compile
)
# With more, a device's share of a batch would be small.
MAX_CPU_DEVICES = 8

# Keeping every block (M_MMAP_MAX=0) let a process grow from 4.5 to 10.9 GB in 13 steps. With one arena for all threads
# (M_ARENA_MAX=1), programs compiled 1.2 to 1.8 times as long, and then small steps took 1.4 times as long, as the
# devices waited for one lock while malloc searched the pieces that the compiler had left. Other arenas than the first
# hold no block of more than 64 MiB, so without large pages one start in six was as slow as with one arena.
KEPT_BLOCK = 2**27  # bytes
_MOST_BEFORE_2_35 = 2**25  # bytes: the highest threshold that glibc accepts before version 2.35
_M_MXFAST, _M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = 1, -1, -3  # constants of malloc.h


def set_up_jax() -> None:
    """Set up JAX as the commands that train, score or predict do. Scripts and notebooks may call it.

    Call it before JAX computes anything, because JAX counts its devices once. It turns CPU cores into devices
    (``JAX_NUM_CPU_DEVICES`` overrides how many). It keeps compiled programs in the user's cache folder
    (``JAX_COMPILATION_CACHE_DIR`` overrides where), and freed memory in the process. Importing ``jaxresnet`` changes
    none of this.
    """
    keep_freed_memory()
    for flag in _XLA_FLAGS:
        flags = os.environ.get("XLA_FLAGS", "")
        if flag.partition("=")[0] not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()
    _use_all_cores()
    _keep_compiled_programs()


@functools.cache
def keep_freed_memory() -> None:
    """Keep freed blocks below ``KEPT_BLOCK`` bytes in this process, unless ``JAXRESNET_TUNE_MALLOC=0`` is set.

    Every training step needs the same memory. By default glibc returns a large block to the system when it is freed,
    and the system provides it again, zeroed, page by page: half a million page faults per step of the final model.
    Larger blocks still go back. The few that a step takes would not always fit where they were, and the process would
    grow by gigabytes. ``docs/performance.md`` has the measurements.
    """
    if platform.libc_ver()[0] != "glibc" or os.environ.get("JAXRESNET_TUNE_MALLOC") == "0":
        return
    set_option = ctypes.CDLL(None).mallopt
    set_option(_M_MXFAST, 0)  # Small free blocks join large ones, which then fit the next step's blocks.
    # The threshold comes first, because either setting stops glibc from raising it by itself.
    if set_option(_M_MMAP_THRESHOLD, KEPT_BLOCK) or set_option(_M_MMAP_THRESHOLD, _MOST_BEFORE_2_35):
        set_option(_M_TRIM_THRESHOLD, -1)
    jax.monitoring.register_event_duration_secs_listener(_return_compilers_memory)


def _return_compilers_memory(event: str, duration_secs: float, **_: Any) -> None:
    """Return to the system what steps left before a compilation, and what it freed."""
    if event.startswith("/jax/core/compile/") and duration_secs > 0.05:
        return_freed_memory()


def return_freed_memory() -> None:
    """Return to the system the memory that this process keeps and does not use, where glibc can."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _use_all_cores() -> None:
    """Turn CPU cores into devices, so that batches are divided over them as over GPUs.

    XLA:CPU otherwise divides each operation of a program, and waits for all cores between any two. The number of
    devices is a power of two, because that divides most batches, and at most ``MAX_CPU_DEVICES``. Nothing changes if
    ``JAX_NUM_CPU_DEVICES`` or ``XLA_FLAGS`` sets the number, or if JAX has begun to compute.
    """
    # JAX adds these attributes to its config at run time, so they have no annotations.
    given = jax.config.jax_num_cpu_devices > 0  # type: ignore[attr-defined]
    if given or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):  # JAX has begun to compute
        jax.config.update("jax_num_cpu_devices", min(1 << (cores.bit_length() - 1), MAX_CPU_DEVICES))


def _keep_compiled_programs() -> None:
    """Keep compiled programs in the user's cache, if it is writable and ``JAX_COMPILATION_CACHE_DIR`` is not set."""
    if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]  # JAX adds it at run time
        return
    with contextlib.suppress(OSError):  # there is no home folder, or it is not writable
        folder = cache_folder() / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            jax.config.update("jax_compilation_cache_dir", str(folder))
            # By default programs that compile in less than 1 s are not kept, such as that for one picture.
            if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
                jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def describe() -> dict[str, Any]:
    """Return device, platform, numbers of devices and processes, versions, git commit and settings."""
    devices = jax.devices()
    return {
        "device": device_name(),
        "platform": devices[0].platform,
        "device_count": len(devices),
        "process_count": jax.process_count(),
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in _PACKAGES}
        | {"jaxresnet": jaxresnet.__version__},
        "git_commit": _git_commit(),
        "settings": settings(),
    }


def settings() -> dict[str, Any]:
    """Return what of this process's environment changes numbers, beside devices and versions."""
    return {name: getattr(jax.config, name) for name in _SETTINGS} | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}


def device_name() -> str:
    """Return the kind of the first device. On CPU, return the processor and its number of cores."""
    kind = jax.devices()[0].device_kind
    return _processor() if kind == "cpu" else kind


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0]}, {len(models)} cores" if models else platform.machine()


def _git_commit() -> str | None:
    """Return this source tree's commit, with ``-dirty`` if tracked files differ from it, or None outside of git."""
    root = pathlib.Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
