"""Programs that run many steps in one dispatch, on all devices, without the host.

The data set lies on the devices, so a program gets only indices.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array, Bool, Int, Int32, UInt8

from jaxresnet.core.augment import Transform
from jaxresnet.core.schedules import Hyperparams
from jaxresnet.core.state import TrainState, split_seed
from jaxresnet.core.steps import Batch, Loss, Metrics, cross_entropy, eval_step, train_step


@flax.struct.dataclass
class DeviceSplit:
    """A whole split, on every device.

    Attributes:
        rows: pixels (size, height * width * 3) uint8, one image per row. A TPU pads an array's last two axes to tiles,
            so it would copy images of shape (32, 3) to arrays several times as large.
        labels: (size,) int32.
        image_shape: (height, width, 3).
        has_mirrored: True if index ``size + i`` stands for image ``i``, mirrored left to right.
    """

    rows: Any  # an array, or its shape while a program is lowered
    labels: Any
    image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False)
    has_mirrored: bool = flax.struct.field(pytree_node=False, default=False)

    def batch(self, indices: Int[Array, " batch"]) -> Batch:
        """Return ``image`` (batch, height, width, 3) and ``label`` (batch,) of the images at ``indices``."""
        number = indices % len(self.labels) if self.has_mirrored else indices
        images = self.rows[number].reshape(-1, *self.image_shape)
        if self.has_mirrored:
            images = jnp.where((indices >= len(self.labels))[:, None, None, None], images[:, :, ::-1], images)
        return {"image": images, "label": self.labels[number]}


@dataclasses.dataclass(frozen=True)
class Steps:
    """Compiled programs that run a series of steps in one dispatch. Metrics have one entry per step.

    ``train`` donates its state. ``evaluate`` counts the images with a true mask, its last argument.
    """

    train: Callable[[TrainState, DeviceSplit, Int[Array, "steps batch"], Hyperparams], tuple[TrainState, Metrics]]
    evaluate: Callable[[TrainState, DeviceSplit, Int[Array, "steps batch"], Bool[Array, "steps batch"]], Metrics]


def create_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arrange the devices (by default all) in a one-dimensional mesh, over which batches are divided."""
    return Mesh(np.array(jax.devices() if devices is None else devices), ("data",))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copy each array to every device. If there are several processes, each must pass the same arrays."""
    return _put(tree, NamedSharding(mesh, PartitionSpec()))


def _put(tree: Any, replicated: Sharding) -> Any:
    if replicated.is_fully_addressable:
        return jax.device_put(tree, replicated)

    def put(leaf: Any) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)))
        # With several processes, device_put would exchange the arrays to compare them.
        return jax.make_array_from_process_local_data(replicated, np.asarray(leaf))

    return jax.tree.map(put, tree)


def put_on_devices(
    images: UInt8[np.ndarray, "size height width 3"],
    labels: Int32[np.ndarray, " size"],
    mesh: Mesh,
    has_mirrored: bool = False,
) -> DeviceSplit:
    """Copy a whole split to every device, or once if they are CPU devices."""
    rows, shape = images.reshape(len(images), -1), (images.shape[1], images.shape[2], images.shape[3])
    if jax.default_backend() == "cpu":
        rows = np.asarray(jnp.asarray(rows))  # JAX's own memory, aligned so that all CPU devices can share it
    return replicate(DeviceSplit(rows, labels, shape, has_mirrored), mesh)


def ambient(mesh: Mesh | AbstractMesh) -> contextlib.AbstractContextManager[Any]:
    """Make ``mesh`` visible to code being traced. ``kernels.convolution`` needs its platform and its size."""
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def jit_steps(
    transform: Transform, mesh: Mesh | AbstractMesh, loss: Loss = cross_entropy, mirror: bool = False
) -> Steps:
    """Jit programs for the devices of ``mesh``, with state and data replicated and each batch divided.

    Each program is compiled at its first use with arrays of new shapes. Runs in the same process share it. An abstract
    mesh suffices to lower the programs for devices that are not here.

    Batches need not be divisible by the number of devices, because the compiler pads and masks. So BatchNorm's
    statistics and the gradient are those of the whole batch on any number of devices.
    """
    # Evaluation only normalises, so one program serves all augmentation and every training size.
    evaluated = Transform((), transform.mean, transform.std)
    return Steps(_train_program(transform, mesh, loss), _eval_program(evaluated, mesh, mirror))


@functools.cache
def _train_program(transform: Transform, mesh: Mesh | AbstractMesh, loss: Loss) -> Callable[..., Any]:
    def train(
        state: TrainState, data: DeviceSplit, indices: jax.Array, hyperparams: Hyperparams
    ) -> tuple[TrainState, Metrics]:
        def step(state: TrainState, step_inputs: tuple[jax.Array, Hyperparams]) -> tuple[TrainState, Metrics]:
            index, step_hyperparams = step_inputs
            return train_step(state, _gather(data, index, mesh), step_hyperparams, transform, loss)

        with ambient(mesh):
            return _scan(step, state, (indices, hyperparams))

    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.jit(train, in_shardings=replicated, out_shardings=replicated, donate_argnums=0)


@functools.cache
def _eval_program(transform: Transform, mesh: Mesh | AbstractMesh, mirror: bool) -> Callable[..., Any]:
    def evaluate(state: TrainState, data: DeviceSplit, indices: jax.Array, mask: jax.Array) -> Metrics:
        def step(carry: None, step_inputs: tuple[jax.Array, jax.Array]) -> tuple[None, Metrics]:
            index, step_mask = step_inputs
            return carry, eval_step(state, _gather(data, index, mesh, mask=step_mask), transform, mirror)

        with ambient(mesh):
            return _scan(step, None, (indices, mask))[1]

    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.jit(evaluate, in_shardings=replicated, out_shardings=replicated)


def _gather(data: DeviceSplit, indices: jax.Array, mesh: Mesh | AbstractMesh, **extra: jax.Array) -> Batch:
    """Return the images and labels of a batch, and ``extra``, divided over the devices."""
    batch = data.batch(indices) | extra
    return jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec("data")))


def dispatch(program: Callable[..., Any], state: TrainState, data: DeviceSplit, *inputs: Any) -> Any:
    """Run a program of ``Steps`` on inputs from the host. Any other implicit transfer raises an error."""
    inputs = _put(inputs, data.labels.sharding)
    # With JAX_DISABLE_JIT=1, for debugging, every operation transfers its own constants.
    is_debugging = jax.config.jax_disable_jit  # type: ignore[attr-defined]  # JAX adds it at run time
    with jax.transfer_guard("allow" if is_debugging else "disallow"):
        return program(state, data, *inputs)


def _scan(step: Callable[..., Any], carry: Any, xs: Any) -> tuple[Any, Any]:
    """Run ``lax.scan``, without the loop for a single step.

    XLA:CPU rewrites the weight gradients of convolutions into a fast form only outside of loops. Inside a loop, a
    training step of ``configs/cpu.py`` was measured 31 times slower.
    """
    if len(jax.tree.leaves(xs)[0]) > 1:
        return jax.lax.scan(step, carry, xs)
    carry, y = step(carry, jax.tree.map(lambda x: x[0], xs))
    return carry, jax.tree.map(lambda leaf: leaf[None], y)


def steps_per_dispatch(configured: int) -> int:
    """Return the number of steps per dispatch on this machine: 1 on CPU (see ``_scan``), else ``configured``."""
    return 1 if jax.default_backend() == "cpu" else configured


def eval_batch_size(configured: int) -> int:
    """Return the number of images per step of evaluation: on CPU at most 64 per device, as 1,000 at once took 5 GB."""
    return min(configured, 64 * jax.device_count()) if jax.default_backend() == "cpu" else configured


def epoch_order(seed: int, epoch: int, size: int, alternating_flip: bool = False) -> Int[np.ndarray, " size"]:
    """Return the order of the training images in an epoch, a permutation that depends only on (seed, epoch).

    With ``alternating_flip``, ``size`` is added to the indices of those to mirror: half of the images, by a coin for
    each, in even epochs, and the others in odd ones (Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024).
    """
    key = split_seed(seed).order
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), size))
    if not alternating_flip:
        return order
    coins = np.asarray(jax.random.bernoulli(jax.random.fold_in(key, 2**31), 0.5, (size,)))  # no epoch has this number
    return order + np.int32(size) * (coins[order] ^ (epoch % 2 == 1))


def train_batches(
    order: Int[np.ndarray, " size"], batch_size: int, start: int, steps: int
) -> Iterator[Int[np.ndarray, "steps batch"]]:
    """Yield the indices of an epoch's batches, up to ``steps`` batches at a time.

    Args:
        order: permutation from ``epoch_order``.
        batch_size: size of every full batch. A smaller last batch holds the rest and is yielded alone.
        start: number of the first batch to yield, counted from 0.
        steps: largest number of batches to yield at a time.
    """
    full = len(order) // batch_size
    batches = order[: full * batch_size].reshape(full, batch_size)
    for first in range(start, full, steps):
        yield batches[first : first + steps]
    rest = order[full * batch_size :]
    if len(rest) and start <= full:
        yield rest[None]


def eval_batches(
    size: int, batch_size: int, steps: int
) -> Iterator[tuple[Int[np.ndarray, "steps batch"], Bool[np.ndarray, "steps batch"]]]:
    """Yield indices and masks that visit each of ``size`` images once. The last batch is padded to ``batch_size``."""
    positions = np.arange(-(-size // batch_size) * batch_size).reshape(-1, batch_size)
    for first in range(0, len(positions), steps):
        chunk = positions[first : first + steps]
        yield np.minimum(chunk, size - 1), chunk < size
