"""Learning-rate schedules and optimizers with the semantics of ``torch.optim``."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jaxresnet.errors import UserError

LearningRateFn = Callable[[jax.typing.ArrayLike], jax.Array]


def create_learning_rate_fn(config: ConfigDict, steps_per_epoch: int) -> LearningRateFn:
    """The learning rate as a function of the training step, counted from 0.

    Args:
        config: ``config.schedule``: the ``name`` of the schedule, its base ``learning_rate``, its own fields, and
            ``step_per``: ``"epoch"`` holds the rate through each epoch, as ``scheduler.step()`` once an epoch does
            in PyTorch; ``"step"`` moves it at every step.
        steps_per_epoch: steps in an epoch, the last and smaller batch included.

    Raises:
        UserError: an unknown name or ``step_per``.
    """
    schedule = _choose(SCHEDULES, "schedule.name", config.name)(config)
    clocks = {
        "epoch": lambda step: jnp.asarray(step) // steps_per_epoch,
        "step": lambda step: jnp.asarray(step) / steps_per_epoch,
    }
    epochs_passed = _choose(clocks, "schedule.step_per", config.step_per)
    return lambda step: schedule(epochs_passed(step))


def cosine(config: ConfigDict) -> LearningRateFn:
    """``torch.optim.lr_scheduler.CosineAnnealingLR`` as a function of the epochs passed.

    learning_rate * (1 + cos(pi * epoch / t_max)) / 2: it falls to 0 at ``t_max`` and rises again past it.
    """
    if config.t_max <= 0:
        raise UserError(f"schedule.t_max={config.t_max}: expected a positive number of epochs")
    return lambda epoch: config.learning_rate * (1 + jnp.cos(math.pi * epoch / config.t_max)) / 2


def create_optimizer(config: ConfigDict, learning_rate_fn: LearningRateFn) -> optax.GradientTransformation:
    """The optimizer that ``config.optimizer`` names, running at ``learning_rate_fn`` of its own step count.

    Raises:
        UserError: an unknown name.
    """
    return _choose(OPTIMIZERS, "optimizer.name", config.name)(config, learning_rate_fn)


def sgd(config: ConfigDict, learning_rate_fn: LearningRateFn) -> optax.GradientTransformation:
    """``torch.optim.SGD``: ``weight_decay`` is added to the gradient of every parameter (coupled L2), the momentum
    buffer sums those, and the learning rate comes last."""
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(learning_rate_fn, momentum=config.momentum),
    )


SCHEDULES = {"cosine": cosine}
OPTIMIZERS = {"sgd": sgd}


def _choose(choices: dict, field: str, name: str) -> Callable:
    if name not in choices:
        raise UserError(f"{field}={name!r}: expected one of {', '.join(sorted(choices))}")
    return choices[name]
