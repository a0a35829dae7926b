"""Steps: pure, reproducible, compiled once, and equal on any number of devices."""

import jax
import numpy as np
import pytest

from configs import default
from jaxresnet.core.evaluation import evaluate
from jaxresnet.core.programs import (
    _eval_program,
    _train_program,
    create_mesh,
    epoch_order,
    eval_batches,
    jit_steps,
    put_on_devices,
    replicate,
    train_batches,
)
from jaxresnet.core.schedules import Hyperparams
from jaxresnet.core.state import create_train_state, create_transform
from jaxresnet.data.loading import Split
from tests.torch_reference import F, from_torch, torch


def make_transform(label_smoothing=0.0, crop_padding=4, flip=True):
    config = default.get_config()
    config.label_smoothing = label_smoothing
    config.augment.update(crop_padding=crop_padding, flip=flip, mean=(0.5,) * 3, std=(0.25,) * 3)
    return create_transform(config)


TRANSFORM = make_transform()


def random_split(size=50):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
    return Split(images, rng.integers(0, 10, size).astype(np.int32))


def hyperparams(steps=1):
    return Hyperparams(np.full(steps, 0.1, np.float32), np.full(steps, 0.9, np.float32))


def setup(config, split):
    mesh = create_mesh()
    state = replicate(create_train_state(config, (32, 32, 3)), mesh)
    return jit_steps(TRANSFORM, mesh), state, put_on_devices(split.images, split.labels, mesh)


def assert_trees_equal(actual, expected, **tolerance):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        if jax.numpy.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_allclose(a, b, **(tolerance or {"rtol": 0, "atol": 0}))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_label_smoothing_is_torchs(tiny_config, label_smoothing):
    """The first step subtracts the gradient by the linear layer's biases, so their change shows it."""
    tiny_config.model.dropout_rate = 0.0
    tiny_config.optimizer.weight_decay = 0.0
    _, state, data = setup(tiny_config, random_split(20))
    images = TRANSFORM.eval(jax.numpy.asarray(random_split(20).images))
    logits, _ = state.apply_fn(state.variables, images, train=True, mutable=["batch_stats"])

    def cross_entropies():
        theirs = torch.tensor(np.asarray(logits), requires_grad=True)
        labels = torch.tensor(random_split(20).labels, dtype=torch.int64)
        F.cross_entropy(theirs, labels, label_smoothing=label_smoothing).backward()
        return {"gradient": theirs.grad.sum(0), "loss": F.cross_entropy(theirs, labels).item()}

    expected = from_torch(f"steps/cross entropy smoothed by {label_smoothing}", cross_entropies, relative=1e-5)

    steps = jit_steps(make_transform(label_smoothing, 0, False), create_mesh())
    before = np.asarray(state.params["linear"]["bias"])
    state, metrics = steps.train(state, data, np.arange(20)[None], hyperparams())
    moved = (before - np.asarray(state.params["linear"]["bias"])) / 0.1
    np.testing.assert_allclose(moved, expected["gradient"], rtol=1e-4, atol=1e-6)
    # The reported loss is the plain cross entropy, so that runs are comparable.
    np.testing.assert_allclose(metrics["loss"][0] / 20, expected["loss"], rtol=1e-5)


def test_scanned_steps_equal_single_steps(tiny_config):
    steps, state, data = setup(tiny_config, random_split())
    indices = np.arange(40).reshape(4, 10)
    scanned, scanned_metrics = steps.train(state, data, indices, hyperparams(len(indices)))
    state = setup(tiny_config, random_split())[1]
    losses = []
    for index in indices:
        state, metrics = steps.train(state, data, index[None], hyperparams())
        losses.append(metrics["loss"][0])
    assert int(scanned.step) == int(state.step) == 4
    np.testing.assert_allclose(scanned_metrics["loss"], losses, rtol=1e-4)
    assert_trees_equal(scanned.params, state.params, rtol=1e-3, atol=1e-5)


def test_step_is_pure(tiny_config):
    steps, state, data = setup(tiny_config, random_split())
    first = steps.train(state, data, np.arange(10)[None], hyperparams())
    second = steps.train(setup(tiny_config, random_split())[1], data, np.arange(10)[None], hyperparams())
    assert_trees_equal(first, second)


def test_draws_follow_seed_and_step(tiny_config):
    steps, state, data = setup(tiny_config, random_split())

    def loss(seed, step):
        changed = state.replace(rng=jax.random.key(seed), step=jax.numpy.int32(step))
        copied = jax.tree.map(lambda leaf: leaf.copy(), changed)
        return float(steps.train(copied, data, np.arange(10)[None], hyperparams())[1]["loss"][0])

    assert len({loss(0, 0), loss(0, 1), loss(1, 0)}) == 3
    assert loss(0, 1) == loss(0, 1)


def test_each_shape_compiles_once(tiny_config):
    """Full batches, smaller last batches and evaluation take three programs for any number of epochs and runs."""
    _train_program.cache_clear()
    _eval_program.cache_clear()
    split = random_split(50)
    for seed in range(2):
        tiny_config.seed = seed
        steps, state, data = setup(tiny_config, split)
        for epoch in range(3):
            for indices in train_batches(epoch_order(0, epoch, 50), 12, 0, 1):
                rates = jax.tree.map(lambda value: value / (1 + epoch), hyperparams(len(indices)))  # noqa: B023
                state, _ = steps.train(state, data, indices, rates)
            evaluate(steps, state, data, 50, 20)
        assert steps.train._cache_size() == 2
        assert steps.evaluate._cache_size() == 1


def test_order_permutes_by_seed_and_epoch():
    orders = [epoch_order(seed, epoch, 1000) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    assert len({tuple(order) for order in orders}) == 4
    np.testing.assert_array_equal(orders[1], epoch_order(0, 1, 1000))


def test_alternating_flips_equal_numpy():
    """In two successive epochs each image is seen once as it is and once mirrored. The order stays."""
    split, mesh = random_split(), create_mesh()
    data = put_on_devices(split.images, split.labels, mesh, has_mirrored=True)
    mirrored = []
    for epoch in range(4):
        indices = epoch_order(0, epoch, 50, alternating_flip=True)
        np.testing.assert_array_equal(indices % 50, epoch_order(0, epoch, 50))
        assert indices.dtype == np.int32
        batch = data.batch(jax.numpy.asarray(indices))
        expected = [image[:, ::-1] if i >= 50 else image for i, image in zip(indices, split.images[indices % 50])]  # noqa: B905
        np.testing.assert_array_equal(batch["image"], expected)
        np.testing.assert_array_equal(batch["label"], split.labels[indices % 50])
        mirrored.append({int(i) - 50 for i in indices if i >= 50})
    assert mirrored[0] == mirrored[2] and mirrored[1] == mirrored[3] == {*range(50)} - mirrored[0]
    assert 10 < len(mirrored[0]) < 40


def test_averages_equal_numpy(tiny_config):
    """Parameters and statistics are averaged alike; the first steps forget the initial ones quickly."""
    tiny_config.ema_decay = 0.25
    steps, state, data = setup(tiny_config, random_split())
    expected = jax.device_get(state.raw_variables)
    for step in range(4):
        state, _ = steps.train(state, data, np.arange(16)[None], hyperparams())
        decay = min(0.25, (2 + step) / (11 + step))
        raw = jax.device_get(state.raw_variables)
        expected = jax.tree.map(lambda old, new, d=decay: d * old + (1 - d) * new, expected, raw)
    assert_trees_equal(state.variables, expected, rtol=1e-5, atol=1e-7)
    assert_trees_equal(state.with_variables(raw).variables, raw)
    assert min(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (expected, raw)), strict=True)) > 0


@pytest.mark.parametrize(
    ("size", "batch_size", "at_once"), [(50, 12, 1), (50, 12, 2), (48, 12, 3), (5, 5, 4), (50_000, 128, 130)]
)
def test_epoch_visits_each_image_once(size, batch_size, at_once):
    order = epoch_order(0, 0, size)
    dispatches = list(train_batches(order, batch_size, 0, at_once))
    np.testing.assert_array_equal(np.concatenate([d.ravel() for d in dispatches]), order)
    num_steps = sum(len(d) for d in dispatches)
    assert num_steps == -(-size // batch_size)
    step = 0
    for i, dispatch in enumerate(dispatches):
        rest = list(train_batches(order, batch_size, step, at_once))
        assert len(rest) == len(dispatches) - i
        np.testing.assert_array_equal(rest[0], dispatch)
        step += len(dispatch)
    assert list(train_batches(order, batch_size, num_steps, at_once)) == []


def test_cifar10_has_391_steps():
    dispatches = list(train_batches(np.arange(50_000), 128, 0, 130))
    assert [d.shape for d in dispatches] == [(130, 128)] * 3 + [(1, 80)]


@pytest.mark.parametrize("batch_size", [1, 7, 50, 49, 64])
def test_evaluation_counts_every_image_once(tiny_config, batch_size):
    split = random_split(50)
    steps, state, data = setup(tiny_config, split)
    shown = []
    sums, confusion, *_ = evaluate(steps, state, data, 50, batch_size, shown.append)
    assert sum(shown) == 50
    logits = state.apply_fn(state.variables, TRANSFORM.eval(jax.numpy.asarray(split.images)), train=False)
    log_probabilities = np.asarray(jax.nn.log_softmax(logits), np.float64)
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (split.labels, np.argmax(logits, -1)), 1)
    np.testing.assert_array_equal(confusion, expected)
    assert sums.count == 50
    assert sums.correct == int((np.argmax(logits, -1) == split.labels).sum())
    assert sums.loss == pytest.approx(-log_probabilities[np.arange(50), split.labels].sum(), rel=1e-5)


def test_padding_of_evaluation_is_masked():
    chunks = list(eval_batches(10, 4, 2))
    assert [indices.shape for indices, _ in chunks] == [(2, 4), (1, 4)]
    indices, mask = (np.concatenate([chunk[i].ravel() for chunk in chunks]) for i in (0, 1))
    np.testing.assert_array_equal(indices[mask], np.arange(10))
    assert mask.sum() == 10 and indices.max() < 10


ON_MANY_DEVICES = """
import json
import jax, numpy as np
from configs import default
from jaxresnet.core.programs import *
from jaxresnet.core.evaluation import evaluate
from jaxresnet.core.state import create_train_state
from tests.core.test_steps import TRANSFORM, hyperparams, random_split

config = default.get_config()
config.model.channels, config.model.blocks, config.model.pooling = (4, 8), (1, 1), "global"
config.model.dropout_rate = 0.4
split = random_split(50)
results = {}
for count in (1, 3, 8):
    mesh = create_mesh(jax.devices()[:count])
    steps, data = jit_steps(TRANSFORM, mesh), put_on_devices(split.images, split.labels, mesh)
    state = replicate(create_train_state(config, (32, 32, 3)), mesh)
    losses = []
    for epoch in range(2):
        for indices in train_batches(epoch_order(0, epoch, 50), 16, 0, 1):
            state, metrics = steps.train(state, data, indices, hyperparams(len(indices)))
            losses.append(float(metrics["loss"][0]))
    sums, confusion, *_ = evaluate(steps, state, data, 50, 20)
    kernel = state.params["layer2_0"]["conv1"]["kernel"]
    results[count] = {
        "losses": losses, "eval_loss": sums.loss, "correct": sums.correct, "count": sums.count,
        "confusion": int(confusion.sum()),
        "var": np.asarray(state.batch_stats["layer2_0"]["bn2"]["var"]).tolist(),
        "copies": len(kernel.sharding.device_set) if kernel.sharding.is_fully_replicated else 0,
    }
print(json.dumps(results))
"""


@pytest.mark.reliability
def test_one_device_equals_eight(run_on_devices):
    """Batches of 16 and 2 on 1, 3 and 8 devices give the same losses, BatchNorm statistics and evaluation."""
    results = run_on_devices(ON_MANY_DEVICES, 8)
    one = results["1"]
    for count in ("3", "8"):
        many = results[count]
        assert many["copies"] == int(count)
        np.testing.assert_allclose(many["losses"], one["losses"], rtol=1e-4)
        np.testing.assert_allclose(many["var"], one["var"], rtol=1e-3)
        np.testing.assert_allclose(many["eval_loss"], one["eval_loss"], rtol=1e-3)
        assert many["count"] == one["count"] == many["confusion"] == 50 and abs(many["correct"] - one["correct"]) <= 1
