"""Optimizers: Muon, and those of the paper with the semantics of ``torch.optim`` at its default betas and epsilon.

They are optax transformations. Their learning rate, momentum and weight decay may be traced values.
``create_optimizer`` keeps these in the optimizer's state, and ``set_hyperparams`` replaces them at every step. To add
one, write the function, and list it in ``OPTIMIZERS``.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jaxresnet.extensions import find, options_of

Scalar = jax.typing.ArrayLike

# SGD trains the parameters that Muon does not: those of the linear layer, the stem and BatchNorm. The rate is relative
# to Muon's and was chosen for this project. The momentum is that of airbench's recipes.
MUON_SGD_RATE, MUON_SGD_MOMENTUM = 6.0, 0.85


def create_optimizer(config: ConfigDict, frozen: tuple[str, ...] = ()) -> optax.GradientTransformation:
    """Create the optimizer that ``config``, a run's ``config.optimizer``, describes.

    The optimizer gets the fields of ``config`` that its signature names. Its learning rate is 0 until
    ``set_hyperparams`` sets it. Equal configs get the same object, so that runs share compiled programs. Parameters of
    ``frozen`` stages, such as ``"stem"`` and ``"layer1"``, keep every bit.

    Raises:
        UserError: ``optimizer.name`` is unknown, or the optimizer names a field that does not exist.
    """
    optimizer = find(OPTIMIZERS, "optimizer.name", config.name)
    fields = options_of(optimizer, {"learning_rate": 0.0, **config}, "config.optimizer")
    return _create_optimizer(optimizer, tuple(sorted(fields.items())), frozen)


@functools.cache
def _create_optimizer(
    optimizer: Callable[..., optax.GradientTransformation], fields: tuple[tuple[str, Any], ...], frozen: tuple[str, ...]
) -> optax.GradientTransformation:
    def kinds(params: Any) -> dict[str, str]:
        stages = {name: "stem" if name in ("conv1", "bn1") else name.partition("_")[0] for name in params}
        return {name: "frozen" if stage in frozen else "trained" for name, stage in stages.items()}

    @functools.wraps(optimizer)
    def partly(**options: Any) -> optax.GradientTransformation:
        return optax.partition({"trained": optimizer(**options), "frozen": _keep()}, kinds)

    return optax.inject_hyperparams(partly if frozen else optimizer)(**dict(fields))


def _keep() -> optax.GradientTransformation:
    """Leave parameters as they are. The compiler then leaves out their gradients."""
    # Adding 0 would change -0 to 0, and adding -0 changes nothing.
    return optax.stateless(lambda updates, _: jax.tree.map(lambda leaf: jnp.full_like(leaf, -0.0), updates))


def takes_momentum(config: ConfigDict) -> bool:
    """Return True if the optimizer that ``config`` names has a momentum, or a beta1 in its place.

    Raises:
        UserError: ``optimizer.name`` is unknown.
    """
    return "momentum" in inspect.signature(find(OPTIMIZERS, "optimizer.name", config.name)).parameters


def set_hyperparams(opt_state: Any, **hyperparams: Scalar) -> Any:
    """Return the state with new hyperparameters. Those that the optimizer does not have are ignored."""
    new = {name: hyperparams.get(name, value) for name, value in opt_state.hyperparams.items()}
    return opt_state._replace(hyperparams=new)


def sgd(learning_rate: Scalar, momentum: Scalar, weight_decay: Scalar) -> optax.GradientTransformation:
    """Create ``SGD``: decay added to the gradient (coupled L2), then the momentum buffer, then the learning rate."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(decay=momentum),
        optax.scale_by_learning_rate(learning_rate),
    )


def muon(learning_rate: Scalar, momentum: Scalar, weight_decay: Scalar) -> optax.GradientTransformation:
    """Create Muon (Jordan, 2024) for the kernels of the blocks, and SGD with Nesterov momentum for the rest.

    Muon treats a kernel as a matrix (features, values that a feature reads). Its update approximates the orthogonal
    matrix nearest to the momentum by three Newton-Schulz steps. Before each update the kernel is scaled to a Frobenius
    norm of sqrt(features), so the learning rate is about the size of an update relative to the kernel. BatchNorm
    follows each of these kernels, so their scale does not change the output.

    SGD's learning rate is ``MUON_SGD_RATE * learning_rate``, its momentum ``MUON_SGD_MOMENTUM``. Weight decay (coupled)
    applies only to SGD's kernels, not to biases, BatchNorm or Muon's kernels.
    """

    def kinds(params: Any) -> Any:
        def kind(path: tuple[Any, ...], leaf: jax.Array) -> str:
            is_stem = path[0].key == "conv1"
            return "muon" if leaf.ndim == 4 and not is_stem else "sgd"

        return jax.tree_util.tree_map_with_path(kind, params)

    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    def matrices(params: Any) -> Any:
        return jax.tree.map(lambda leaf: optax.contrib.MuonDimensionNumbers((0, 1, 2), 3), params)

    return optax.partition(
        {
            "muon": optax.chain(
                optax.contrib.scale_by_muon(ns_steps=3, beta=momentum, weight_dimension_numbers=matrices),
                optax.scale_by_learning_rate(learning_rate),
                _from_unit_scale(),
            ),
            "sgd": optax.chain(
                optax.add_decayed_weights(weight_decay, kernels),
                optax.trace(decay=MUON_SGD_MOMENTUM, nesterov=True),
                optax.scale_by_learning_rate(MUON_SGD_RATE * learning_rate),
            ),
        },
        kinds,
    )


def _from_unit_scale() -> optax.GradientTransformation:
    """Scale each kernel to the Frobenius norm of an orthogonal matrix before the update is added."""

    def update(updates: Any, state: optax.EmptyState, params: Any) -> tuple[Any, optax.EmptyState]:
        def each(change: jax.Array, kernel: jax.Array) -> jax.Array:
            norm = jnp.linalg.norm(kernel)
            scale = jnp.where(norm > 0, jnp.sqrt(kernel.shape[-1]) / norm, 1)
            return (scale - 1) * kernel + change

        return jax.tree.map(each, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def adam(learning_rate: Scalar, momentum: Scalar, weight_decay: Scalar) -> optax.GradientTransformation:
    """Create ``Adam`` with coupled L2. ``momentum`` is its beta1."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_adam(b1=momentum, b2=0.999, eps=1e-8),
        optax.scale_by_learning_rate(learning_rate),
    )


def adamw(learning_rate: Scalar, momentum: Scalar, weight_decay: Scalar) -> optax.GradientTransformation:
    """Create ``AdamW``: parameters shrink by ``learning_rate * weight_decay``, apart from the moments (decoupled)."""
    return optax.chain(
        optax.scale_by_adam(b1=momentum, b2=0.999, eps=1e-8),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )


def radam(learning_rate: Scalar, momentum: Scalar, weight_decay: Scalar) -> optax.GradientTransformation:
    """Create ``RAdam`` with coupled L2. ``momentum`` is its beta1."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        scale_by_torch_radam(b1=momentum, b2=0.999, eps=1e-8),
        optax.scale_by_learning_rate(learning_rate),
    )


def rmsprop(learning_rate: Scalar, momentum: Scalar, weight_decay: Scalar) -> optax.GradientTransformation:
    """Create ``RMSprop(alpha=0.99)`` with coupled L2: epsilon outside the root, learning rate after the momentum."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_rms(decay=0.99, eps=1e-8, eps_in_sqrt=False),
        optax.trace(decay=momentum),
        optax.scale_by_learning_rate(learning_rate),
    )


def adagrad(learning_rate: Scalar, weight_decay: Scalar) -> optax.GradientTransformation:
    """Create ``Adagrad`` with coupled L2. It has no momentum."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        scale_by_torch_adagrad(eps=1e-10),
        optax.scale_by_learning_rate(learning_rate),
    )


def adadelta(learning_rate: Scalar, weight_decay: Scalar) -> optax.GradientTransformation:
    """Create ``Adadelta(rho=0.9, eps=1e-6)`` with coupled L2. It has no momentum."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_adadelta(rho=0.9, eps=1e-6),
        optax.scale_by_learning_rate(learning_rate),
    )


class ScaleByAdagradState(NamedTuple):
    """State of ``scale_by_torch_adagrad``: the sum of squared gradients, a tree like the parameters."""

    sum_of_squares: Any


def scale_by_torch_adagrad(eps: float) -> optax.GradientTransformation:
    """Scale gradients to g / (sqrt(sum of g^2) + eps), with a sum that starts at 0.

    ``optax.scale_by_rss`` adds epsilon inside the root instead.
    """

    def init(params: Any) -> ScaleByAdagradState:
        return ScaleByAdagradState(jax.tree.map(jnp.zeros_like, params))

    def update(grads: Any, state: ScaleByAdagradState, params: Any = None) -> tuple[Any, ScaleByAdagradState]:
        sums = jax.tree.map(lambda total, grad: total + grad * grad, state.sum_of_squares, grads)
        scaled = jax.tree.map(lambda grad, total: grad / (jnp.sqrt(total) + eps), grads, sums)
        return scaled, ScaleByAdagradState(sums)

    return optax.GradientTransformation(init, update)


def scale_by_torch_radam(b1: Scalar, b2: float, eps: float) -> optax.GradientTransformation:
    """Scale by rectified Adam (Liu et al., 2020): momentum alone while the adaptive rate's variance is intractable.

    PyTorch adds epsilon to the root of the second moment before its bias is corrected, ``optax.scale_by_radam`` after.
    """
    rho_inf = 2 / (1 - b2) - 1

    def init(params: Any) -> optax.ScaleByAdamState:
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))  # separate arrays, because both are donated
        return optax.ScaleByAdamState(count=jnp.zeros([], jnp.int32), mu=mu, nu=nu)

    def update(grads: Any, state: optax.ScaleByAdamState, params: Any = None) -> tuple[Any, optax.ScaleByAdamState]:
        count = optax.safe_increment(state.count)
        mu = optax.tree_utils.tree_update_moment(grads, state.mu, b1, 1)
        nu = optax.tree_utils.tree_update_moment(grads, state.nu, b2, 2)
        b2_power = jnp.asarray(b2, jnp.result_type(float)) ** count
        rho = rho_inf - 2 * count * b2_power / (1 - b2_power)
        tractable = rho > 5
        # If the variance is intractable, the rectifier is not used. This rho keeps its root real.
        rho = jnp.where(tractable, rho, rho_inf)
        rectifier = jnp.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))

        def scale(mean: jax.Array, square: jax.Array) -> jax.Array:
            adaptive = rectifier * jnp.sqrt(1 - b2_power) / (jnp.sqrt(square) + eps)
            return (mean * jnp.where(tractable, adaptive, 1)).astype(mean.dtype)

        scaled = jax.tree.map(scale, optax.tree_utils.tree_bias_correction(mu, b1, count), nu)
        return scaled, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adadelta": adadelta,
    "adagrad": adagrad,
    "adam": adam,
    "adamw": adamw,
    "muon": muon,
    "radam": radam,
    "rmsprop": rmsprop,
    "sgd": sgd,
}
