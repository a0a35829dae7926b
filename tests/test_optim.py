"""Schedules and optimizers against torch.optim."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from ml_collections import ConfigDict

from jaxresnet import optim
from jaxresnet.augment import Transform
from jaxresnet.errors import UserError
from jaxresnet.models import ResNet
from jaxresnet.steps import train_step
from jaxresnet.train_state import TrainState
from tests.torch_reference import TorchResNet, load_variables, to_state_dict, to_torch_images


def schedule(**fields):
    return ConfigDict({"name": "cosine", "learning_rate": 0.1, "t_max": 200.0, "step_per": "epoch", **fields})


def torch_cosine(steps, t_max):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=t_max)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array(rates)


def test_cosine_equals_torch_for_400_epochs_and_rises_again():
    with jax.enable_x64(True):
        learning_rate_fn = optim.create_learning_rate_fn(schedule(), steps_per_epoch=391)
        first, last = (np.array([learning_rate_fn(391 * epoch + i) for epoch in range(400)]) for i in (0, 390))
    np.testing.assert_allclose(first, torch_cosine(400, 200), rtol=1e-6, atol=1e-12)
    np.testing.assert_array_equal(first, last)  # held through the epoch
    assert first[200] == pytest.approx(0, abs=1e-12) and first[399] == pytest.approx(0.1, rel=1e-4)


def test_cosine_in_float32_as_a_run_computes_it():
    rates = jax.jit(jax.vmap(optim.create_learning_rate_fn(schedule(), 391)))(391 * np.arange(400))
    np.testing.assert_allclose(rates, torch_cosine(400, 200), rtol=1e-4, atol=1e-8)


def test_cosine_per_step_equals_torch_stepped_every_step():
    with jax.enable_x64(True):
        learning_rate_fn = optim.create_learning_rate_fn(schedule(step_per="step", t_max=4.0), steps_per_epoch=10)
        rates = np.array([learning_rate_fn(step) for step in range(80)])
    np.testing.assert_allclose(rates, torch_cosine(80, 40), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("fields", [dict(name="cosin"), dict(step_per="batch"), dict(t_max=0.0)])
def test_impossible_schedules_are_refused(fields):
    with pytest.raises(UserError, match=f"schedule.{next(iter(fields))}"):
        optim.create_learning_rate_fn(schedule(**fields), 10)


def test_an_unknown_optimizer_is_refused_with_the_list():
    with pytest.raises(UserError, match="expected one of sgd"):
        optim.create_optimizer(ConfigDict({"name": "sgdd"}), lambda step: 0.1)


def test_five_steps_of_sgd_equal_torch_in_float64():
    """The real train_step, with dropout and augmentation off, through a falling learning rate."""
    fields = dict(channels=(4, 8), blocks=(1, 2), pooling=2)
    steps, batch_size = 5, 6
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (steps, batch_size, 8, 8, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, (steps, batch_size)).astype(np.int32)
    transform = Transform(0, False, (0.5,) * 3, (0.25,) * 3)

    with jax.enable_x64(True):
        model = ResNet(**fields, dtype=np.float64, param_dtype=np.float64)
        variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
        torch_model = load_variables(TorchResNet(**fields, head=2).double(), variables).train()
        optimizer = torch.optim.SGD(torch_model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)

        learning_rate_fn = optim.create_learning_rate_fn(schedule(t_max=3.0), steps_per_epoch=1)
        config = ConfigDict({"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4})
        state = TrainState.create(
            apply_fn=model.apply,
            params=variables["params"],
            tx=optim.create_optimizer(config, learning_rate_fn),
            batch_stats=variables["batch_stats"],
            rng=jax.random.key(0),
        )
        step = jax.jit(train_step, static_argnums=2)
        for image, label in zip(images, labels, strict=True):
            state, metrics = step(state, {"image": jnp.asarray(image), "label": jnp.asarray(label)}, transform)

            inputs = to_torch_images(np.asarray(jax.jit(transform.eval)(jnp.asarray(image)), np.float64))
            logits = torch_model(inputs)
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(label, dtype=torch.long))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()

            assert float(metrics["loss"]) / batch_size == pytest.approx(loss.item(), rel=1e-9)
            assert int(metrics["correct"]) == int((logits.argmax(1).numpy() == label).sum())
        expected = torch_model.state_dict()
        for key, tensor in to_state_dict(state.variables).items():
            np.testing.assert_allclose(tensor.numpy(), expected[key].numpy(), rtol=1e-8, atol=1e-11, err_msg=key)
