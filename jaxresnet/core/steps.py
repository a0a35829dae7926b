"""A step of training and a step of evaluation, as pure functions of a state and a batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from jaxresnet.core.augment import Targets, Transform
from jaxresnet.core.optim import set_hyperparams
from jaxresnet.core.schedules import Hyperparams
from jaxresnet.core.state import TrainState
from jaxresnet.extensions import find

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Loss = Callable[[jax.Array, jax.Array], jax.Array]


def cross_entropy(logits: Float[Array, "batch classes"], targets: Targets) -> Float[Array, " batch"]:
    """Return the cross entropy of each image, for class numbers (batch,) or shares of the classes (batch, classes)."""
    if targets.ndim == 1:
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return optax.softmax_cross_entropy(logits, targets)


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy}


def create_loss(config: ConfigDict) -> Loss:
    """Return the loss that ``config.loss`` names: a function from logits and targets to the loss of each image."""
    return find(LOSSES, "loss", config.loss)


def train_step(
    state: TrainState, batch: Batch, hyperparams: Hyperparams, transform: Transform, loss: Loss = cross_entropy
) -> tuple[TrainState, Metrics]:
    """Take one step of gradient descent on the mean loss of a batch.

    Args:
        state: state before the step.
        batch: ``image`` (batch, height, width, 3) uint8 and ``label`` (batch,) int32.
        hyperparams: learning rate and momentum of this step.
        transform: augmentation. Its draws and dropout's are functions of ``state.rng`` and ``state.step``.
        loss: function from logits and targets to the loss of each image.

    Returns:
        The state after the step, and the batch's metrics before the step (see ``metrics_of``).
    """
    augment_rng, dropout_rng = jax.random.split(jax.random.fold_in(state.rng, state.step))
    images, targets = transform.train(augment_rng, batch["image"], batch["label"])

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        logits, updates = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            rngs={"dropout": dropout_rng},
            mutable=["batch_stats"],
        )
        return loss(logits, targets).mean(), (logits, updates["batch_stats"])

    grads, (logits, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    state = state.replace(opt_state=set_hyperparams(state.opt_state, **hyperparams._asdict()))
    state = state.apply_gradients(grads=grads, batch_stats=batch_stats).average()
    return state, metrics_of(logits, batch["label"], jnp.ones_like(batch["label"], bool))


def eval_step(state: TrainState, batch: Batch, transform: Transform, mirror: bool = False) -> Metrics:
    """Compute the metrics of a batch, counting only images with a true ``mask`` (batch,).

    If ``mirror`` is true, logits are averaged over each image and its mirror image. The result extends ``metrics_of``
    by ``confusion`` (classes, classes), number of images by true class (row) and predicted class (column), and by
    ``logits`` (batch, classes) of all images.
    """
    images = transform.eval(batch["image"])
    logits = state.apply_fn(state.variables, images, train=False)
    if mirror:
        logits = (logits + state.apply_fn(state.variables, images[:, :, ::-1], train=False)) / 2
    classes = logits.shape[-1]
    confusion = jnp.zeros((classes, classes), jnp.int32)
    confusion = confusion.at[batch["label"], jnp.argmax(logits, -1)].add(batch["mask"].astype(jnp.int32))
    return metrics_of(logits, batch["label"], batch["mask"]) | {"confusion": confusion, "logits": logits}


def metrics_of(logits: jax.Array, labels: Int[Array, " batch"], mask: Bool[Array, " batch"]) -> Metrics:
    """Sum ``loss`` (cross entropy), ``correct`` and ``count`` over the images with a true ``mask``."""
    return {
        "loss": jnp.sum(cross_entropy(logits, labels), where=mask),
        "correct": jnp.sum(jnp.argmax(logits, -1) == labels, where=mask),
        "count": jnp.sum(mask),
    }
