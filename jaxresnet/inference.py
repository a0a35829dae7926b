"""A trained run as a function from images to logits."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float
from ml_collections import ConfigDict
from scipy.special import softmax

from jaxresnet import released
from jaxresnet.config import load_config
from jaxresnet.core.augment import Transform
from jaxresnet.core.model import ResNet
from jaxresnet.core.optim import create_optimizer
from jaxresnet.core.programs import ambient, create_mesh, eval_batch_size, replicate
from jaxresnet.core.state import TrainState, create_model, create_train_state, create_transform, split_seed
from jaxresnet.data.cifar import IMAGE_SHAPE, IMAGE_SIZE
from jaxresnet.data.images import ImageLike, to_pixels
from jaxresnet.extensions import check_used
from jaxresnet.system.errors import UserError
from jaxresnet.weights import from_state_dict
from jaxresnet.workdir.checkpoint import Checkpointer
from jaxresnet.workdir.folder import (
    CHECKPOINTS_FOLDER,
    SUMMARY_FILE,
    WEIGHTS_FILE,
    read_class_names,
    read_summary,
    read_temperature,
)


class RestoredRun(NamedTuple):
    """A run restored from a checkpoint, or from the weights of a release."""

    config: ConfigDict
    step: int  # steps taken
    state: TrainState  # replicated on the devices of the mesh
    mesh: Mesh  # all devices


def restore_run(workdir: pathlib.Path, checkpoint: str | int) -> RestoredRun:
    """Restore a run onto all devices.

    Args:
        workdir: run directory or release.
        checkpoint: ``"best"``, ``"last"``, or a step number.

    Raises:
        UserError: missing or damaged run, checkpoint or weights.
    """
    config, mesh = load_config(workdir), create_mesh()
    check_used(config, workdir)
    if (workdir / WEIGHTS_FILE).exists() and not (workdir / CHECKPOINTS_FOLDER).exists():
        if checkpoint != "last":
            raise UserError(f"--checkpoint={checkpoint}: {workdir} is a release, which holds only the last")
        variables, step = _read_weights(workdir, config)
        state = TrainState(  # A release has no optimizer state, and zeros of it would take a second to create.
            apply_fn=create_model(config).apply,
            tx=create_optimizer(config.optimizer),
            opt_state=(),
            step=jnp.int32(step),
            rng=split_seed(config.seed).step,
            **variables,
        )
        return RestoredRun(config, step, replicate(state, mesh), mesh)
    # Shapes suffice: the checkpoint holds all values but the key, and the key follows from the config.
    abstract = jax.eval_shape(lambda: create_train_state(config, IMAGE_SHAPE))
    replicated = NamedSharding(mesh, PartitionSpec())
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated), abstract)
    with Checkpointer(workdir, read_only=True) as checkpointer:
        state, _ = checkpointer.restore_named(abstract, checkpoint)
    state = state.replace(rng=replicate(split_seed(config.seed).step, mesh))
    return RestoredRun(config, int(state.step), state, mesh)


def _read_weights(folder: pathlib.Path, config: ConfigDict) -> tuple[dict[str, Any], int]:
    """Return the weights of a release, checked against the checksum in its summary, and the steps behind them."""
    path, summary = folder / WEIGHTS_FILE, read_summary(folder) or {}
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != summary.get("release", {}).get("sha256"):
        raise UserError(f"{path} was changed or damaged: its SHA-256 is not that in {SUMMARY_FILE}; copy both again")
    try:
        return from_state_dict(safetensors.numpy.load(content), config.model), summary["last"]["step"]
    except (UserError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A model with its weights and its preprocessing.

    Attributes:
        model: network.
        variables: ``params`` and ``batch_stats`` of the network.
        transform: function from pixels to the network's input.
        class_names: names, one per logit.
        batch_size: largest number of images per batch.
        mesh: devices that share each batch.
        image_size: height and width of the network's input in pixels.
        temperature: divisor of logits before they become probabilities.
    """

    model: ResNet
    variables: Any
    transform: Transform
    class_names: tuple[str, ...]
    batch_size: int
    mesh: Mesh
    image_size: int = IMAGE_SIZE
    temperature: float = 1.0

    def forward(self, images: jax.typing.ArrayLike) -> jax.Array:
        """Compute logits (batch, classes) of pixels (batch, size, size, 3) uint8. Pure, for jit and export."""
        return _forward(self.variables, images, self.model, self.transform)

    def logits(self, images: ImageLike | Sequence[ImageLike]) -> Float[np.ndarray, "size classes"]:
        """Compute logits of any number of images, in batches.

        Args:
            images: one image or a sequence of them. An image is the path of a file, a PIL image, or pixels (height,
                width, 3) uint8. An array (size, height, width, 3) is a sequence. Images of another size than the
                model's input are cropped to their central square and resized.

        Raises:
            UserError: an entry is not an image, or cannot be read.
        """
        return self._in_batches(_forward, images)

    def probabilities(self, images: ImageLike | Sequence[ImageLike]) -> Float[np.ndarray, "size classes"]:
        """Compute the softmax of ``logits`` divided by the temperature. Each row sums to 1."""
        return self.to_probabilities(self.logits(images))

    def to_probabilities(self, logits: Float[np.ndarray, "size classes"]) -> Float[np.ndarray, "size classes"]:
        """Return the softmax of ``logits`` divided by the temperature."""
        return softmax(logits / np.float32(self.temperature), axis=-1)

    def classify(self, images: ImageLike | Sequence[ImageLike]) -> list[str]:
        """Return the name of the most probable class of each image. Arguments are those of ``logits``."""
        return [self.class_names[index] for index in self.logits(images).argmax(-1)]

    def features(self, images: ImageLike | Sequence[ImageLike]) -> Float[np.ndarray, "size values"]:
        """Compute the input of the linear layer. Arguments and errors are those of ``logits``."""
        return self._in_batches(_features, images)

    def functional(self) -> tuple[Callable[[Any, jax.typing.ArrayLike], jax.Array], Any]:
        """Return a pure function ``apply_fn``, and ``variables``, so that ``apply_fn(variables, images)`` are logits.

        The images are pixels as in ``forward``. ``jax.grad``, ``vmap`` and ``jit`` apply to images and variables alike.
        """
        return functools.partial(_forward, model=self.model, transform=self.transform), self.variables

    def logits_of_batch(self, images: np.ndarray, batch_size: int) -> Float[np.ndarray, "size classes"]:
        """Compute logits of up to ``batch_size`` images, with the program for that many."""
        return self._of_batch(_forward, images, batch_size)

    def _of_batch(
        self, function: Callable[..., jax.Array], images: np.ndarray, batch_size: int
    ) -> Float[np.ndarray, "size values"]:
        padding = np.zeros((batch_size - len(images), *images.shape[1:]), np.uint8)
        padded = np.concatenate([images, padding])
        values = _compiled(function, self.variables, padded, self.model, self.transform, self.mesh)
        return np.asarray(values)[: len(images)]

    def _in_batches(
        self, function: Callable[..., jax.Array], images: ImageLike | Sequence[ImageLike]
    ) -> Float[np.ndarray, "size values"]:
        pixels = to_pixels(images, self.image_size)
        size = max(1, min(self.batch_size, len(pixels)))
        batches = [pixels[start : start + size] for start in range(0, len(pixels), size)] or [pixels]
        return np.concatenate([self._of_batch(function, batch, size) for batch in batches])


def load(workdir: str | pathlib.Path = released.DEFAULT, checkpoint: str | int = "last") -> Classifier:
    """Load the classifier that a run has trained, or by default the one that comes with the package.

    Args:
        workdir: run directory, release, or name of a released model such as ``"pretrained:cifar10"``.
        checkpoint: ``"best"``, ``"last"``, or a step number.

    Raises:
        UserError: missing or damaged run, checkpoint or weights.
    """
    folder = released.resolve(workdir)
    config, _, state, mesh = restore_run(folder, checkpoint)
    names = read_class_names(folder, config)
    transform = create_transform(config)
    model, batch_size = create_model(config), eval_batch_size(config.eval_batch_size)
    size, temperature = config.dataset.image_size, read_temperature(folder)
    return Classifier(model, state.variables, transform, names, batch_size, mesh, size, temperature)


def _forward(variables: Any, images: jax.typing.ArrayLike, model: ResNet, transform: Transform) -> jax.Array:
    # Flax returns logits alone here, because no variables are mutable.
    return cast(jax.Array, model.apply(variables, transform.eval(jnp.asarray(images)), train=False))


def _features(variables: Any, images: jax.typing.ArrayLike, model: ResNet, transform: Transform) -> jax.Array:
    pixels = transform.eval(jnp.asarray(images))
    _, state = model.apply(variables, pixels, train=False, mutable=["intermediates"])
    return cast(jax.Array, state["intermediates"]["features"][0])


@functools.partial(jax.jit, static_argnames=("function", "model", "transform", "mesh"))
def _compiled(
    function: Callable[..., jax.Array],
    variables: Any,
    images: jax.Array,
    model: ResNet,
    transform: Transform,
    mesh: Mesh,
) -> jax.Array:
    divided = NamedSharding(mesh, PartitionSpec("data"))
    with ambient(mesh):
        return function(variables, jax.lax.with_sharding_constraint(images, divided), model, transform)
