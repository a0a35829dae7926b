"""Optimizers compared with torch.optim, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from configs import default
from jaxresnet.core import optim
from jaxresnet.core.augment import Transform
from jaxresnet.core.model import ResNet
from jaxresnet.core.schedules import create_hyperparams_fn
from jaxresnet.core.state import TrainState
from jaxresnet.core.steps import train_step
from jaxresnet.system.errors import UserError
from tests.torch_reference import F, TorchResNet, from_torch, load_variables, to_state_dict, to_torch_images, torch

STEPS = 10
# The authors' calls, and RAdam.
TORCH = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=5e-4),
    "adam": lambda params: torch.optim.Adam(params, lr=0.1, weight_decay=5e-4),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.1, weight_decay=5e-4),
    "radam": lambda params: torch.optim.RAdam(params, lr=0.1, weight_decay=5e-4),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=0.1, momentum=0.9, weight_decay=5e-4),
    "adagrad": lambda params: torch.optim.Adagrad(params, lr=0.1, weight_decay=5e-4),
    "adadelta": lambda params: torch.optim.Adadelta(params, lr=0.1, weight_decay=5e-4),
}
each_optimizer = pytest.mark.parametrize("name", TORCH)


def optimizer_config(name, momentum=0.9, weight_decay=5e-4):
    return ConfigDict({"name": name, "momentum": momentum, "weight_decay": weight_decay})


def draw_gradients(scale):
    """Draw gradients and values of a vector and a matrix. Some gradients are 0, as behind a ReLU that never fires."""
    rng = np.random.default_rng(0)
    grads = {"a": rng.normal(size=(STEPS, 50)), "b": rng.normal(size=(STEPS, 7, 6))}
    grads["a"][:, ::7] = 0
    params = {name: rng.normal(size=grad.shape[1:]) for name, grad in grads.items()}
    # Parameters are scaled too, so that decay does not hide the effect of small gradients.
    return {k: scale * v for k, v in grads.items()}, {k: scale * v for k, v in params.items()}


def in_jax(tx, params, grads, rates, momenta):
    @jax.jit
    def step(params, state, grads, rate, momentum):
        state = optim.set_hyperparams(state, learning_rate=rate, momentum=momentum)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.asarray, params)
    state = tx.init(params)
    for i in range(STEPS):
        params, state = step(params, state, {k: v[i] for k, v in grads.items()}, rates[i], momenta[i])
    return params


def in_torch(optimizer_of, params, grads, rates, momenta=None):
    tensors = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in params.items()}
    optimizer = optimizer_of(tensors.values())
    for i in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rates[i]
            if momenta is not None:
                group["momentum"] = momenta[i]
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(grads[name][i])
        optimizer.step()
    return {k: v.detach().numpy() for k, v in tensors.items()}


# At 1e-7, the value and the position of every epsilon matter.
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-7])
@each_optimizer
def test_ten_steps_equal_torch(name, scale):
    grads, params = draw_gradients(scale)
    rates = 0.1 * np.linspace(1, 0.1, STEPS)
    with jax.enable_x64(True):
        tx = optim.create_optimizer(optimizer_config(name))
        actual = in_jax(tx, params, grads, rates, np.full(STEPS, 0.9))
    expected = from_torch(f"optim/{name} at {scale}", lambda: in_torch(TORCH[name], params, grads, rates))
    for key in params:
        # The tolerance is relative to the update and not to the parameter that it moves.
        moved = np.abs(expected[key] - params[key])
        assert (np.abs(np.asarray(actual[key]) - expected[key]) <= 1e-6 * moved + 1e-14 * np.abs(params[key])).all()


def test_cycling_momentum_equals_torch():
    grads, params = draw_gradients(1.0)
    rates, momenta = np.linspace(0.01, 0.1, STEPS), np.linspace(0.95, 0.85, STEPS)
    with jax.enable_x64(True):
        actual = in_jax(optim.create_optimizer(optimizer_config("sgd")), params, grads, rates, momenta)
    expected = from_torch("optim/sgd with other momenta", lambda: in_torch(TORCH["sgd"], params, grads, rates, momenta))
    for key in params:
        np.testing.assert_allclose(actual[key], expected[key], rtol=1e-12)


def muon_in_numpy(kernel, grads, rates, momentum):
    """Apply Jordan's algorithm to one kernel (height, width, channels, features)."""
    features = kernel.shape[-1]
    weights, buffer = kernel.reshape(-1, features).T, 0
    for count, (grad, rate) in enumerate(zip(grads, rates, strict=True), 1):
        grad = grad.reshape(-1, features).T
        buffer = momentum * buffer + (1 - momentum) * grad
        # optax corrects the bias of both terms. The next steps ignore their scale, but not their ratio.
        ahead = momentum * buffer / (1 - momentum ** (count + 1)) + (1 - momentum) * grad / (1 - momentum**count)
        x = ahead / np.linalg.norm(ahead)
        for _ in range(3):
            square = x @ x.T
            x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
        weights = weights * np.sqrt(features) / np.linalg.norm(weights) - rate * x
    return weights.T.reshape(kernel.shape)


def test_muon_equals_numpy_and_torch():
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 3, 8, 6), "conv1": (3, 3, 3, 8), "linear": (6, 5), "bias": (5,)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    grads = {name: rng.normal(size=(STEPS, *shape)) for name, shape in shapes.items()}
    rates = np.linspace(0.1, 0.01, STEPS)
    with jax.enable_x64(True):
        tx = optim.create_optimizer(optimizer_config("muon", 0.8))
        actual = in_jax(tx, params, grads, rates, np.full(STEPS, 0.8))

    def sgd(tensors):
        groups = [{"params": tensor, "weight_decay": 5e-4 * (tensor.ndim > 1)} for tensor in tensors]
        return torch.optim.SGD(groups, lr=0.1, momentum=optim.MUON_SGD_MOMENTUM, nesterov=True)

    rest = {name: params[name] for name in ("conv1", "linear", "bias")}
    expected = from_torch("optim/sgd beside muon", lambda: in_torch(sgd, rest, grads, optim.MUON_SGD_RATE * rates))
    for name in rest:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-12)
    expected = muon_in_numpy(params["kernel"], grads["kernel"], rates, 0.8)
    np.testing.assert_allclose(actual["kernel"], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", [*TORCH, "muon"])
def test_float32_stays_float32(name):
    params = {"w": jnp.ones((3, 2)), "kernel": jnp.ones((3, 3, 4, 2))}
    tx = optim.create_optimizer(optimizer_config(name))
    updates, state = tx.update(params, optim.set_hyperparams(tx.init(params), learning_rate=np.float32(0.1)), params)
    assert all(update.dtype == jnp.float32 for update in updates.values())
    assert all(leaf.dtype in (jnp.float32, jnp.int32) for leaf in jax.tree.leaves(state))


def test_every_optimizer_is_tested():
    assert {*TORCH, "muon"} == set(optim.OPTIMIZERS)


def test_equal_configs_share_optimizer():
    assert optim.create_optimizer(optimizer_config("adam")) is optim.create_optimizer(optimizer_config("adam"))
    assert optim.create_optimizer(optimizer_config("adam")) is not optim.create_optimizer(optimizer_config("adamw"))


def test_unknown_optimizer_is_refused():
    with pytest.raises(UserError, match="expected one of adadelta, adagrad, adam, adamw, muon, radam, rmsprop, sgd"):
        optim.create_optimizer(optimizer_config("sgdd"))


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_frozen_parameters_keep_every_bit(name):
    """A zero keeps its sign."""
    params = {module: {"kernel": jnp.full((3, 3, 4, 4), -0.0)} for module in ("conv1", "layer1_0", "layer2_0")}
    tx = optim.create_optimizer(optimizer_config(name), ("stem", "layer1"))
    state = optim.set_hyperparams(tx.init(params), learning_rate=0.1)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
    after = optax.apply_updates(params, updates)
    kept = [
        module for module in params if np.signbit(after[module]["kernel"]).all() and not after[module]["kernel"].any()
    ]
    assert kept == ["conv1", "layer1_0"]


@pytest.mark.parametrize("frozen", [(), ("stem", "layer1")])
def test_train_step_equals_torch(frozen):
    """The real train_step runs without dropout and augmentation, at a falling learning rate.

    In PyTorch, frozen modules need no gradient and are in evaluation mode.
    """
    fields = dict(channels=(4, 8), blocks=(1, 2), pooling=2)
    steps, batch_size = 5, 6
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (steps, batch_size, 8, 8, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, (steps, batch_size)).astype(np.int32)
    transform = Transform((), (0.5,) * 3, (0.25,) * 3)

    with jax.enable_x64(True):
        model = ResNet(**fields, frozen=frozen, dtype=np.float64, param_dtype=np.float64)
        variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)

        def train():
            torch_model = load_variables(TorchResNet(**fields, head=2).double(), variables).train()
            for name in ("conv1", "bn1", "layer1") if frozen else ():
                getattr(torch_model, name).requires_grad_(False).eval()
            optimizer = torch.optim.SGD(torch_model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)
            losses, correct = [], []
            for image, label in zip(images, labels, strict=True):
                inputs = to_torch_images(np.asarray(jax.jit(transform.eval)(jnp.asarray(image)), np.float64))
                logits = torch_model(inputs)
                loss = F.cross_entropy(logits, torch.tensor(label, dtype=torch.long))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
                losses.append(loss.item())
                correct.append((logits.argmax(1).numpy() == label).sum())
            return {"losses": losses, "correct": correct} | torch_model.state_dict()

        expected = from_torch(f"optim/{'frozen' if frozen else 'all'} in training", train)
        config = default.get_config()
        config.schedule.total_epochs = 3.0
        hyperparams_fn = create_hyperparams_fn(config, steps_per_epoch=1)
        state = TrainState.create(
            apply_fn=model.apply,
            params=variables["params"],
            tx=optim.create_optimizer(config.optimizer, frozen),
            batch_stats=variables["batch_stats"],
            rng=jax.random.key(0),
        )
        step = jax.jit(train_step, static_argnums=3)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            batch = {"image": jnp.asarray(image), "label": jnp.asarray(label)}
            state, metrics = step(state, batch, hyperparams_fn(i), transform)
            assert float(metrics["loss"]) / batch_size == pytest.approx(expected["losses"][i], rel=1e-9)
            assert int(metrics["correct"]) == expected["correct"][i]
        for key, array in to_state_dict(state.variables).items():
            np.testing.assert_allclose(array, expected[key], rtol=1e-8, atol=1e-11, err_msg=key)
