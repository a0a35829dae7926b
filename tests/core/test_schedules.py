"""Schedules compared with torch.optim.lr_scheduler for up to 400 epochs."""

import os
import re
import warnings

import numpy as np
import pytest

from configs import default
from configs.scheduler import get_config
from jaxresnet.core.schedules import create_hyperparams_fn, create_learning_rate_fn, create_momentum_fn
from jaxresnet.system.errors import UserError
from tests.torch_reference import from_torch, torch

lr_scheduler = torch and torch.optim.lr_scheduler
STEPS_PER_EPOCH = 7


def config_of(**fields):
    config = default.get_config()
    config.num_epochs = fields.pop("num_epochs", 200)
    config.schedule.update(fields)
    return config


def torch_values(create_scheduler, ticks, learning_rate=0.1):
    """Return the learning rates and momenta of a PyTorch script, one per tick."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=learning_rate, momentum=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR itself uses a deprecated argument
        scheduler = create_scheduler(optimizer)
        values = []
        for tick in range(ticks):
            values.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
            optimizer.step()
            if tick + 1 < ticks:
                scheduler.step()
    return dict(zip(("rates", "momenta"), np.array(values).T, strict=True))


def assert_equal_to_torch(config, create_scheduler, ticks, learning_rate=0.1):
    """Compare every tick with PyTorch. If a tick is an epoch, compare its first and last step."""
    test = re.search(r"::test_(\S+)", os.environ["PYTEST_CURRENT_TEST"])[1]
    values = from_torch(f"schedules/{test}", lambda: torch_values(create_scheduler, ticks, learning_rate))
    rates, momenta = values["rates"], values["momenta"]
    steps = np.arange(ticks)
    if config.schedule.step_per == "epoch":
        steps = STEPS_PER_EPOCH * steps[:, None] + [0, STEPS_PER_EPOCH - 1]
        rates, momenta = rates[:, None], momenta[:, None]
    actual = create_hyperparams_fn(config, STEPS_PER_EPOCH)(steps)
    assert actual.learning_rate.dtype == actual.momentum.dtype == np.float64
    # PyTorch multiplies from tick to tick, so its zeros are about 1e-17.
    np.testing.assert_allclose(actual.learning_rate, np.broadcast_to(rates, steps.shape), rtol=1e-6, atol=1e-15)
    np.testing.assert_allclose(actual.momentum, np.broadcast_to(momenta, steps.shape), rtol=1e-6)


def test_cosine_rises_past_its_length():
    config = config_of(total_epochs=200.0, num_epochs=400)
    assert_equal_to_torch(config, lambda opt: lr_scheduler.CosineAnnealingLR(opt, T_max=200), 400)
    rates = create_learning_rate_fn(config, 1)(np.arange(401))
    assert rates[200] == 0 and rates[300] == pytest.approx(0.05) and rates[400] == pytest.approx(0.1)


def test_cosine_per_step():
    config = config_of(step_per="step", num_epochs=40)
    assert_equal_to_torch(config, lambda opt: lr_scheduler.CosineAnnealingLR(opt, T_max=280), 280)


def test_linear_at_pytorchs_defaults():
    config = get_config("linear")
    assert_equal_to_torch(config, lambda opt: lr_scheduler.LinearLR(opt), 400)
    assert create_learning_rate_fn(config, 391)(np.arange(5 * 391, 200 * 391)).min() == pytest.approx(0.1)


def test_polynomial_at_pytorchs_defaults():
    config = get_config("polynomial")
    assert_equal_to_torch(config, lambda opt: lr_scheduler.PolynomialLR(opt), 400)
    assert not create_learning_rate_fn(config, 391)(np.arange(5 * 391, 200 * 391)).any()


def test_one_cycle_as_the_authors_called_it():
    config = get_config("one_cycle")
    assert_equal_to_torch(
        config, lambda opt: lr_scheduler.OneCycleLR(opt, max_lr=0.01, steps_per_epoch=128, epochs=200), 400
    )
    rates, momenta = create_hyperparams_fn(config, 391)(np.arange(200 * 391))
    assert rates.max() < 0.00043 and momenta.min() > 0.949


def test_linear_fixed():
    assert_equal_to_torch(
        get_config("linear_fixed"),
        lambda opt: lr_scheduler.LinearLR(opt, start_factor=1, end_factor=0, total_iters=200),
        400,
    )


def test_polynomial_fixed():
    assert_equal_to_torch(
        get_config("polynomial_fixed"), lambda opt: lr_scheduler.PolynomialLR(opt, total_iters=200, power=2), 400
    )


def test_one_cycle_fixed_cycles_once_per_run():
    total = 200 * STEPS_PER_EPOCH
    assert_equal_to_torch(
        get_config("one_cycle_fixed"), lambda opt: lr_scheduler.OneCycleLR(opt, max_lr=0.1, total_steps=total), total
    )


def test_one_cycle_stays_at_its_end():
    config = config_of(name="one_cycle", total_epochs=20.0)
    rates, momenta = create_hyperparams_fn(config, 1)(np.arange(30))
    assert (rates[19:] == rates[19]).all() and rates[19] == pytest.approx(0.1 / 25e4)
    assert (momenta[19:] == momenta[19]).all()


def test_warm_restarts():
    assert_equal_to_torch(
        get_config("warm_restarts"),
        lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, T_0=50 * STEPS_PER_EPOCH),
        400 * STEPS_PER_EPOCH,
    )


@pytest.mark.parametrize("step_per", ["epoch", "step"])
def test_warm_up_before_a_cosine(step_per):
    ticks = {"epoch": 1, "step": STEPS_PER_EPOCH}[step_per]

    def sequence(opt):
        rise = lr_scheduler.LinearLR(opt, start_factor=0.01, total_iters=5 * ticks)
        fall = lr_scheduler.CosineAnnealingLR(opt, T_max=195 * ticks)
        return lr_scheduler.SequentialLR(opt, [rise, fall], milestones=[5 * ticks])

    assert_equal_to_torch(config_of(warmup_epochs=5.0, step_per=step_per), sequence, 200 * ticks)


@pytest.mark.parametrize("step_per", ["epoch", "step"])
def test_trapezoid_of_three_parts(step_per):
    ticks = {"epoch": 1, "step": STEPS_PER_EPOCH}[step_per]

    def sequence(opt):
        rise = lr_scheduler.LinearLR(opt, start_factor=0.01, total_iters=5 * ticks)
        level = lr_scheduler.ConstantLR(opt, factor=1.0, total_iters=0)
        fall = lr_scheduler.LinearLR(opt, start_factor=1.0, end_factor=0.0, total_iters=10 * ticks)
        return lr_scheduler.SequentialLR(opt, [rise, level, fall], milestones=[5 * ticks, 30 * ticks])

    config = config_of(name="constant", num_epochs=40, warmup_epochs=5.0, decay_epochs=10.0, step_per=step_per)
    assert_equal_to_torch(config, sequence, 40 * ticks)


def test_smaller_last_batch_counts():
    rates = create_learning_rate_fn(config_of(), 391)([390, 391])
    assert rates[0] == 0.1 and rates[1] < 0.1


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(name="cosin"), "schedule.name='cosin': expected one of constant, cosine, linear"),
        (dict(warmup_epochs=200.0), "200 epochs are too few"),
        (dict(name="constant", warmup_epochs=5.0, decay_epochs=195.5), "decay_epochs=195.5: 200 epochs are too few"),
        (dict(name="one_cycle", total_epochs=3.0), "3 ticks are too few"),
    ],
)
def test_impossible_schedules_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        create_learning_rate_fn(config_of(**fields), 10)


def test_one_cycle_wants_a_momentum():
    config = config_of(name="one_cycle")
    config.optimizer.momentum = 0.0
    with pytest.raises(UserError, match=r"has none \(optimizer\.momentum=0\.0\)"):
        create_momentum_fn(config, 10)
    config.optimizer.update(name="adagrad", momentum=0.9)
    with pytest.raises(UserError, match=r"optimizer\.name='adagrad' has none"):
        create_momentum_fn(config, 10)
    # Adam's beta1 takes the place of the momentum, as in PyTorch.
    config.optimizer.name = "adam"
    assert create_momentum_fn(config, 10)(0) == pytest.approx(0.95)
