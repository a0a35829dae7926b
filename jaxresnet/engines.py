"""Where a sweep runs several runs at a time: on this machine, or on the nodes of a Ray cluster.

Each run is a process of its own, because JAX takes its devices and threads once, when it starts.
"""

import contextlib
import itertools
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from jaxresnet.system.errors import UsageError, UserError, one_line
from jaxresnet.workdir.folder import LOCK_FILE, locked

STOPPED = 128 + signal.SIGTERM  # exit status of a run that was told to stop
RETRIES = 3  # of a run whose node ends
LEASE_SECONDS = 180  # after which a file server has released the locks of a host that has died; 90 is NFS's default


def log_file(workdir: pathlib.Path) -> pathlib.Path:
    """Return the file that receives the output of the run in ``workdir``: ``seed0.log`` beside ``seed0``."""
    return workdir.with_name(f"{workdir.name}.log")


def open_log(workdir: pathlib.Path) -> TextIO:
    """Open a run's log to append to it."""
    log_file(workdir).parent.mkdir(parents=True, exist_ok=True)
    return log_file(workdir).open("a", encoding="utf-8")


class Local:
    """Processes on this machine, each with an equal share of its GPUs or, without any, of its CPU cores."""

    def __init__(self, count: int):
        """Share the devices among ``count`` runs at a time.

        Raises:
            UserError: there are fewer devices, or JAX does not start.
        """
        kind, devices = _devices()
        if count > len(devices):
            raise UsageError(f"--jobs={count}: JAX sees {len(devices)} {kind} here; give 1 to {len(devices)}")
        self.kind, self.room = kind, count
        bounds = [len(devices) * i // count for i in range(count + 1)]
        self._free = [devices[start:end] for start, end in itertools.pairwise(bounds)]
        self._shares: dict[subprocess.Popen[bytes], list[str]] = {}

    def start(self, arguments: Sequence[str], workdir: pathlib.Path) -> Any:
        """Start ``jaxresnet train`` with ``arguments`` on a free share, with its output at the end of the run's log."""
        share, environment = self._free.pop(0), dict(os.environ)
        cores = os.sched_getaffinity(0) if self.kind == "CPU cores" and hasattr(os, "sched_getaffinity") else None
        if self.kind == "GPUs":
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(share)
        try:
            if cores:  # A child inherits the affinity.
                os.sched_setaffinity(0, map(int, share))
            with open_log(workdir) as file:
                process = subprocess.Popen(
                    [sys.executable, "-m", "jaxresnet", "train", *arguments],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,  # Ctrl-C comes once, from ``stop``: a second one would not save the run.
                )
        finally:
            if cores:
                os.sched_setaffinity(0, cores)
        self._shares[process] = share
        return process

    def poll(self, process: Any) -> int | str | None:
        """Return None while a run runs, and then its exit status, or why it has none."""
        if (status := process.poll()) is None:
            return None
        self._free.append(self._shares.pop(process))
        if status == -signal.SIGTERM:  # It came before there was a state to save.
            return STOPPED
        return f"ended by {signal.Signals(-status).name}" if status < 0 else int(status)

    def stop(self, process: Any) -> None:
        """Tell a run to save its state and end."""
        process.terminate()


def _devices() -> tuple[str, list[str]]:
    """Return the kind and the names of the devices that runs can share."""
    # Another process asks, because this one must not hold a GPU's memory.
    code = "import jax; print(jax.default_backend(), jax.local_device_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"JAX does not start: {done.stderr.strip().splitlines()[-1]}")
    backend, count = done.stdout.split()[-2:]
    if backend == "cpu":
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        return "CPU cores", [str(core) for core in sorted(cores)]
    if backend == "tpu":
        return "TPU for one process", [""]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "GPUs", visible.split(",")[: int(count)] if visible else [str(index) for index in range(int(count))]


class Ray:
    """Processes on the nodes of a Ray cluster. A run whose node ends goes on from its last checkpoint on another."""

    def __init__(self, folder: pathlib.Path, cpus: int, gpus: int, most: int | None = None):
        """Connect to the cluster of ``RAY_ADDRESS``, or that of this machine.

        Args:
            folder: the sweep's, which all nodes share. It is locked while runs start.
            cpus: CPU cores that a run takes.
            gpus: GPUs that a run takes.
            most: most runs at a time, or None for as many as the cluster can run.

        Raises:
            UserError: Ray is not installed, there is no cluster, or no node with these resources.
        """
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # else a node's end puts its log into the table
        try:
            import ray
        except ImportError as error:
            raise UserError("--on=ray: Ray is not installed; pip install 'jaxresnet[ray]'") from error
        self._ray, self._folder, self._most = ray, folder.absolute(), most
        self._needs = {"CPU": cpus, "GPU": gpus}
        address = os.environ.get("RAY_ADDRESS", "auto")
        host, _, port = address.removeprefix("ray://").rpartition(":")
        try:
            if host:  # Ray itself would try for a quarter of an hour.
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # Ray raises several types
            advice = "start one with `ray start --head`, or set RAY_ADDRESS"
            raise UserError(f"--on=ray: there is no cluster ({one_line(error)}); {advice}") from error
        if self.room < 1:  # below 0 with --gpus below 0
            raise UsageError(f"--cpus={cpus} --gpus={gpus}: no node of the cluster has as many for a run")
        # A process serves one run, as JAX needs it.
        self._train = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES, max_calls=1)(_train_on_node)

    @property
    def room(self) -> int:
        """Number of runs that the nodes can run at a time."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        room = sum(min(int(node.get(name, 0) // n) for name, n in self._needs.items() if n) for node in nodes)
        return min(room, self._most or room)

    def start(self, arguments: Sequence[str], workdir: pathlib.Path) -> Any:
        """Start ``jaxresnet train`` with ``arguments`` on a node, with its output at the end of the run's log."""
        here = pathlib.Path.cwd()
        return self._train.remote([*arguments], self._folder, here / workdir, here, self._needs["CPU"])

    def poll(self, run: Any) -> int | str | None:
        """Return None while a run runs, and then its exit status, or why it has none."""
        if not self._ray.wait([run], timeout=0)[0]:
            return None
        try:
            return int(self._ray.get(run))
        except self._ray.exceptions.TaskCancelledError:
            return STOPPED
        except Exception as error:  # what the task raised, or what ended it
            return one_line(getattr(error, "cause", None) or error)

    def stop(self, run: Any) -> None:
        """Tell a run to save its state and end."""
        self._ray.cancel(run)


def _train_on_node(
    arguments: list[str], folder: pathlib.Path, workdir: pathlib.Path, here: pathlib.Path, cores: int
) -> int:
    """Train, or resume, a run of a sweep in this process of Ray, and return the command's exit status.

    Args:
        arguments: of ``jaxresnet train``, with paths relative to ``here``.
        folder: the sweep's.
        workdir: the run's.
        here: folder in which the sweep was started.
        cores: CPU cores that the run may take.

    Raises:
        UserError: this node does not share ``folder``, or another process holds ``workdir``.
    """
    if not (folder / LOCK_FILE).exists():
        raise UserError(f"node {socket.gethostname()} does not share {folder}; mount it there, at the same path")
    with contextlib.suppress(OSError):  # without that folder, relative paths are the package's
        os.chdir(here)
    # Ray does not bind a process to cores, so JAX would make devices of all. See ``devices.MAX_CPU_DEVICES``.
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(min(1 << (cores.bit_length() - 1), 8)))
    with locked(workdir, LEASE_SECONDS):  # until a node that has ended holds it no longer
        pass
    from jaxresnet import main

    with open_log(workdir) as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            print(f"on node {socket.gethostname()}", flush=True)
            main.main([*arguments, f"--workdir={workdir}"])
        except SystemExit as end:
            return int(end.code or 0)
    return 0


Engine = Local | Ray
