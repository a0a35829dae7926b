"""Learning-rate and momentum schedules with the semantics of ``torch.optim.lr_scheduler``.

They are NumPy functions in float64, as PyTorch's are in Python floats. The host computes the values for the coming
steps and passes them to the compiled program as data. So runs that differ only in their schedules share a program.

Time is counted in ticks, the calls of ``scheduler.step()`` in a PyTorch script: one per epoch or one per step.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jaxresnet.core.optim import takes_momentum
from jaxresnet.system.errors import UserError

WARMUP_START_FACTOR = 0.01
# OneCycleLR's defaults.
ONE_CYCLE_PCT_START = 0.3
ONE_CYCLE_DIV_FACTOR = 25.0
ONE_CYCLE_FINAL_DIV_FACTOR = 1e4
ONE_CYCLE_BASE_MOMENTUM, ONE_CYCLE_MAX_MOMENTUM = 0.85, 0.95

StepFn = Callable[[np.typing.ArrayLike], np.ndarray]
TickFn = Callable[[np.ndarray], np.ndarray]


class Hyperparams(NamedTuple):
    """Hyperparameters of the optimizer at one step, or at each of a series of steps."""

    learning_rate: np.ndarray
    momentum: np.ndarray


def create_hyperparams_fn(config: ConfigDict, steps_per_epoch: int) -> Callable[[np.typing.ArrayLike], Hyperparams]:
    """Return learning rate and momentum as a function of the training step or an array of steps, counted from 0."""
    learning_rate_fn = create_learning_rate_fn(config, steps_per_epoch)
    momentum_fn = create_momentum_fn(config, steps_per_epoch)
    return lambda step: Hyperparams(learning_rate_fn(step), momentum_fn(step))


def create_learning_rate_fn(config: ConfigDict, steps_per_epoch: int) -> StepFn:
    """Return the learning rate as a function of the training step, counted from 0, in float64.

    Args:
        config: run config, of which ``schedule`` and ``num_epochs`` are read.
        steps_per_epoch: number of steps per epoch, including the last, smaller batch.

    Raises:
        UserError: ``schedule.name`` is unknown, or the schedule's or run's length is invalid.
    """
    schedule, clock = config.schedule, _Clock(config, steps_per_epoch)
    if schedule.name not in SCHEDULES:
        raise UserError(f"schedule.name={schedule.name!r}: expected one of {', '.join(sorted(SCHEDULES))}")
    factor = SCHEDULES[schedule.name](schedule, clock.length)

    def learning_rate_fn(step: np.typing.ArrayLike) -> np.ndarray:
        tick = clock.tick(step)
        warming_up = WARMUP_START_FACTOR + (1 - WARMUP_START_FACTOR) * tick / max(clock.warmup, 1)
        after = factor(np.maximum(tick - clock.warmup, 0))
        if clock.decay:
            after = after * np.clip((clock.warmup + clock.length - tick) / clock.decay, 0, 1)
        return schedule.learning_rate * np.where(tick < clock.warmup, warming_up, after)

    return learning_rate_fn


def create_momentum_fn(config: ConfigDict, steps_per_epoch: int) -> StepFn:
    """Return the momentum as a function of the step: ``optimizer.momentum``, unless OneCycleLR changes it.

    Raises:
        UserError: the schedule changes the momentum, but the optimizer has none.
    """
    if config.schedule.name != "one_cycle":
        return lambda step: np.full(np.shape(step), float(config.optimizer.momentum))
    if not config.optimizer.momentum or not takes_momentum(config.optimizer):
        raise UserError(
            f"schedule.name='one_cycle': changes the momentum, but optimizer.name={config.optimizer.name!r} has none "
            f"(optimizer.momentum={config.optimizer.momentum}); choose another optimizer or schedule"
        )
    clock = _Clock(config, steps_per_epoch)
    cycle = _one_cycle(clock.length, ONE_CYCLE_MAX_MOMENTUM, ONE_CYCLE_BASE_MOMENTUM, ONE_CYCLE_MAX_MOMENTUM)
    return lambda step: cycle(np.maximum(clock.tick(step) - clock.warmup, 0))


class _Clock:
    """Conversion of steps to ticks, and the lengths in ticks of the warm-up, the schedule after it, and its decay."""

    def __init__(self, config: ConfigDict, steps_per_epoch: int):
        schedule = config.schedule
        ticks_per_epoch = steps_per_epoch if schedule.step_per == "step" else 1
        self._steps_per_tick = steps_per_epoch // ticks_per_epoch
        self.warmup = schedule.warmup_epochs * ticks_per_epoch
        if schedule.total_epochs is None:
            self.length = config.num_epochs * ticks_per_epoch - self.warmup
        else:
            self.length = schedule.total_epochs * ticks_per_epoch
        self.decay = schedule.decay_epochs * ticks_per_epoch
        if self.length <= 0 or self.decay > self.length:
            raise UserError(
                f"schedule.total_epochs={schedule.total_epochs}, warmup_epochs={schedule.warmup_epochs}, decay_epochs="
                f"{schedule.decay_epochs}: {config.num_epochs} epochs are too few for all of them; give shorter ones"
            )

    def tick(self, step: np.typing.ArrayLike) -> np.ndarray:
        return np.asarray(step) // self._steps_per_tick


# These functions take ``config.schedule`` and its length in ticks, and return the learning rate's factor by tick.


def cosine(config: ConfigDict, length: float) -> TickFn:
    """Return ``CosineAnnealingLR(T_max=length)``: (1 + cos(pi t / length)) / 2. It rises again past ``length``."""
    return lambda tick: (1 + np.cos(np.pi * tick / length)) / 2


def warm_restarts(config: ConfigDict, length: float) -> TickFn:
    """Return ``CosineAnnealingWarmRestarts``: ``restarts`` + 1 cosines of equal length, each from 1 to 0."""
    period = length / (config.restarts + 1)
    return lambda tick: (1 + np.cos(np.pi * (tick % period) / period)) / 2


def linear(config: ConfigDict, length: float) -> TickFn:
    """Return ``LinearLR``: from ``start_factor`` to ``end_factor`` over ``length``, then constant."""
    start, end = config.start_factor, config.end_factor
    return lambda tick: start + (end - start) * np.minimum(tick, length) / length


def polynomial(config: ConfigDict, length: float) -> TickFn:
    """Return ``PolynomialLR``: (1 - t / length) ** ``power``, then 0."""
    return lambda tick: (1 - np.minimum(tick, length) / length) ** config.power


def constant(config: ConfigDict, length: float) -> TickFn:
    """Return 1. With a warm-up and a decay it is a trapezoid (warm-up, stable, decay; Hu et al., 2024)."""
    return np.ones_like


def one_cycle(config: ConfigDict, length: float) -> TickFn:
    """Return ``OneCycleLR(total_steps=length)``: half a cosine up from 1/25 to 1, one down to 1/250,000."""
    start = 1 / ONE_CYCLE_DIV_FACTOR
    return _one_cycle(length, start, 1.0, start / ONE_CYCLE_FINAL_DIV_FACTOR)


def _one_cycle(length: float, start: float, peak: float, end: float) -> TickFn:
    peak_tick, last_tick = ONE_CYCLE_PCT_START * length - 1, length - 1
    if peak_tick <= 0:
        raise UserError(f"schedule.name='one_cycle': {length:g} ticks are too few to rise and fall; give at least 4")

    def anneal(first: float, last: float, share: np.ndarray) -> np.ndarray:
        return last + (first - last) / 2 * (1 + np.cos(math.pi * share))

    def value(tick: np.ndarray) -> np.ndarray:
        tick = np.minimum(tick, last_tick)
        rising = anneal(start, peak, tick / peak_tick)
        falling = anneal(peak, end, (tick - peak_tick) / (last_tick - peak_tick))
        return np.where(tick <= peak_tick, rising, falling)

    return value


SCHEDULES = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
    "one_cycle": one_cycle,
    "polynomial": polynomial,
    "warm_restarts": warm_restarts,
}
