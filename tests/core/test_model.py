"""The Flax models compared with the same networks in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxresnet.core.model import BasicBlock, BatchNorm, ResNet, count_parameters, normalize
from jaxresnet.core.state import model_from_fields
from jaxresnet.system.errors import UserError
from tests.torch_reference import TorchResNet, from_torch, load_variables, random_variables, to_torch_images, torch

BASELINE = dict(channels=(64, 128, 256), blocks=(4, 4, 3), pooling=5)
ARCHITECTURES = {
    "baseline": (BASELINE, 4_697_162),
    "final": ({**BASELINE, "pooling": "global"}, 4_697_162),
    "resnet18": (dict(channels=(64, 128, 256, 512), blocks=(2, 2, 2, 2), pooling=4), 11_173_962),
    "32-64-128": (dict(channels=(32, 64, 128), blocks=(13, 13, 13), stem_channels=16), 4_959_770),
    # Not in the paper: other kernel sizes, and a pooled map of 2x2, because its flattening order matters.
    "other-kernels": (
        dict(channels=(4, 8), blocks=(1, 2), kernel_size=5, shortcut_kernel_size=3, pooling=8, stem_channels=6),
        None,
    ),
}
ARCHITECTURES["plain"] = (dict(channels=(4, 8), blocks=(2, 1), skips=False), None)
# Side of the pooled map, because PyTorch's linear layer must be given its size.
HEAD = {"other-kernels": 2}
# These architectures are enough to find most mistakes.
OFTEN = ("final", "other-kernels", "plain")
each_architecture = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.thorough] * (name not in OFTEN)) for name in ARCHITECTURES]
)
each_convolution = pytest.mark.parametrize("with_our_convolutions", [False, True], ids=["xla", "ours"])


def images(batch=4):
    return jnp.asarray(np.random.default_rng(1).normal(size=(batch, 32, 32, 3)), jnp.float32)


def build(name, with_our_convolutions=False):
    """Return the model, with XLA's convolutions or with those of configs, and random weights."""
    fields, _ = ARCHITECTURES[name]
    model = model_from_fields(fields) if with_our_convolutions else ResNet(**fields)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    return model, random_variables(shapes)


def create_torch_model(name):
    return TorchResNet(**ARCHITECTURES[name][0], head=HEAD.get(name, 1))


def assert_close(actual, expected, relative=1e-4):
    """Check that values agree within ``relative`` of the largest expected magnitude."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(actual, expected, rtol=relative, atol=relative * np.abs(expected).max())


@each_architecture
def test_parameter_count(name):
    fields, expected = ARCHITECTURES[name]
    model = ResNet(**fields)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))

    def count():
        return {"parameters": sum(parameter.numel() for parameter in create_torch_model(name).parameters())}

    torch_count = from_torch(f"model/count of {name}", count)["parameters"]
    assert count_parameters(shapes["params"]) == torch_count
    assert expected in (torch_count, None)


@each_architecture
def test_shape_of_every_stage(name):
    fields, _ = ARCHITECTURES[name]
    model = ResNet(**fields)
    captured = jax.eval_shape(
        lambda: model.init_with_output(
            jax.random.key(0),
            jnp.zeros((2, 32, 32, 3)),
            train=False,
            capture_intermediates=lambda module, _: isinstance(module, BasicBlock),
            mutable=["params", "batch_stats", "intermediates"],
        )
    )[1]["intermediates"]

    def stages():
        with torch.no_grad():
            return {"stages": [output.shape for output in create_torch_model(name).features(torch.zeros(2, 3, 32, 32))]}

    for stage, shape in enumerate(from_torch(f"model/shapes of {name}", stages)["stages"]):
        last_block = captured[f"layer{stage + 1}_{fields['blocks'][stage] - 1}"]["__call__"][0]
        batch, channels, height, width = shape
        assert last_block.shape == (batch, height, width, channels)


@each_convolution
@each_architecture
def test_eval_mode_equals_torch(name, with_our_convolutions):
    model, variables = build(name, with_our_convolutions)

    def evaluate():
        with torch.no_grad():
            return {"logits": load_variables(create_torch_model(name), variables).eval()(to_torch_images(images()))}

    logits = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images())
    assert_close(logits, from_torch(f"model/evaluation of {name}", evaluate)["logits"])


@each_convolution
@each_architecture
def test_train_mode_equals_torch(name, with_our_convolutions):
    model, variables = build(name, with_our_convolutions)

    def train():
        torch_model = load_variables(create_torch_model(name), variables).train()
        with torch.no_grad():
            logits = torch_model(to_torch_images(images()))
        return {"logits": logits} | {k: v for k, v in torch_model.state_dict().items() if ".running_" in k}

    expected = from_torch(f"model/training of {name}", train)
    logits, updates = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))(variables, images())
    assert_close(logits, expected["logits"])
    for path, leaf in jax.tree_util.tree_flatten_with_path(updates["batch_stats"])[0]:
        *modules, statistic = (key.key for key in path)
        prefix = ".".join(modules).replace("_", ".").replace("shortcut.bn", "shortcut.1")
        assert_close(leaf, expected[f"{prefix}.running_{statistic}"])


def test_running_variance_is_the_unbiased_one():
    x = images(2)[:, :2, :2]  # 8 values per channel, so n / (n - 1) is far from 1
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=False)
    _, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 + 0.1 * np.var(x, (0, 1, 2), ddof=1), rtol=1e-5)


def plain_normalize(x, scale, bias, epsilon):
    """Compute BatchNorm's formula, with the variance in one pass too. JAX differentiates this one by itself."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = x.mean((0, 1, 2))
    var = jnp.maximum((x * x).mean((0, 1, 2)) - mean * mean, 0)
    return (x - mean) * (scale * jax.lax.rsqrt(var + epsilon)) + bias


def batch_norm_inputs():
    """Return an input whose channels have many means and scales, one constant; scale, bias, and output gradient."""
    rng = np.random.default_rng(0)
    x = rng.normal(rng.normal(size=6), [0.1, 0.3, 1, 1, 3, 0], size=(8, 5, 7, 6))
    return x, rng.normal(size=6), rng.normal(size=6), rng.normal(size=x.shape)


def gradients(function, x, scale, bias, grad):
    """Return the gradients by input, scale and bias of the output's sum weighted by ``grad``."""
    inputs = (jnp.asarray(each) for each in (x, scale, bias))
    return jax.grad(lambda *inputs: jnp.sum(function(*inputs, 1e-5) * grad), argnums=(0, 1, 2))(*inputs)


def first_of_normalize(*inputs):
    return normalize(*inputs)[0]


def test_batch_norm_gradient_equals_torch():
    x, scale, bias, grad = batch_norm_inputs()

    def differentiate():
        x_torch, *weights = (torch.tensor(each, requires_grad=True) for each in (x.transpose(0, 3, 1, 2), scale, bias))
        y_torch = torch.nn.functional.batch_norm(x_torch, None, None, *weights, training=True, eps=1e-5)
        y_torch.backward(torch.tensor(grad.transpose(0, 3, 1, 2)))
        return {"x": x_torch.grad.permute(0, 2, 3, 1), "scale": weights[0].grad, "bias": weights[1].grad}

    expected = from_torch("model/gradient of BatchNorm", differentiate).values()
    with jax.enable_x64(True):
        for actual, theirs in zip(gradients(first_of_normalize, x, scale, bias, grad), expected, strict=True):
            assert actual.dtype == np.float64
            assert_close(actual, theirs, relative=1e-10)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_batch_norm_gradient_is_exact(dtype):
    """Its error against float64 is at most twice that of JAX's own derivative."""
    x, scale, bias, grad = batch_norm_inputs()
    x = np.asarray(jnp.asarray(x, dtype), np.float64)  # rounding of the input is not an error of the gradient
    with jax.enable_x64(True):
        exact = [np.asarray(each) for each in gradients(plain_normalize, x, scale, bias, grad)]
    inputs = (jnp.asarray(x, dtype), *(jnp.asarray(array, jnp.float32) for array in (scale, bias, grad)))
    ours, jaxs = (gradients(function, *inputs) for function in (first_of_normalize, plain_normalize))
    for actual, other, true in zip(ours, jaxs, exact, strict=True):
        assert actual.dtype == other.dtype
        channels = (0, 1, 2) if true.ndim == 4 else ()
        error, others = (np.abs(np.asarray(each, np.float64) - true).max(channels) for each in (actual, other))
        assert (error <= 2 * others + 1e-6 * np.abs(true).max(channels)).all()


@pytest.mark.reliability
def test_batch_norm_gradient_on_devices(run_on_devices):
    """Three devices do not divide a batch of eight, so the compiler pads."""
    program = """
import json, jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxresnet.core.programs import create_mesh
from tests.core.test_model import batch_norm_inputs, first_of_normalize, gradients
inputs = [np.float32(array) for array in batch_norm_inputs()]
results = []
for count in (1, 2, 3, 4):
    divided = NamedSharding(create_mesh(jax.devices()[:count]), PartitionSpec("data"))
    def differentiate(x, *others):
        return gradients(first_of_normalize, jax.lax.with_sharding_constraint(x, divided), *others)
    results.append([np.asarray(each).ravel().tolist() for each in jax.jit(differentiate)(*inputs)])
print(json.dumps(results))
"""
    one, *several = run_on_devices(program, 4)
    for outputs in several:
        for actual, expected in zip(outputs, one, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


def test_initialisation_is_torchs():
    model = ResNet(channels=(32, 64), blocks=(1, 1))
    params = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)["params"]
    kernels = {
        "conv1.weight": params["conv1"]["kernel"],
        "layer2.0.conv2.weight": params["layer2_0"]["conv2"]["kernel"],
        "layer2.0.shortcut.0.weight": params["layer2_0"]["shortcut_conv"]["kernel"],
        "linear.weight": params["linear"]["kernel"],
    }

    def spread(values):
        return [float(np.abs(values).max()), float(np.std(values))]

    def initialise():
        torch.manual_seed(0)
        state_dict = TorchResNet(channels=(32, 64), blocks=(1, 1)).state_dict()
        return {key: spread(state_dict[key].numpy()) for key in kernels}

    theirs = from_torch("model/initialisation", initialise, relative=1e-6)
    for key, kernel in kernels.items():
        bound = np.prod(kernel.shape[:-1]) ** -0.5
        for largest, deviation in (spread(np.asarray(kernel)), theirs[key]):
            assert 0.97 * bound < largest <= bound
            assert deviation == pytest.approx(bound / 3**0.5, rel=0.06)  # uniform distribution
    bias = np.asarray(params["linear"]["bias"])
    assert 0 < np.abs(bias).max() <= 64**-0.5 and len(np.unique(bias)) == 10


def test_corner_pooling_reads_nothing_else():
    """The paper's "p = 5" on an 8x8 map is one window. The last three rows and columns do not matter."""
    x = images()[:, :8, :8]
    pooled = ResNet(pooling=5)._pool(jnp.asarray(x))
    np.testing.assert_allclose(pooled, x[:, :5, :5].mean((1, 2), keepdims=True), rtol=1e-4, atol=1e-6)


def test_dropout_drops_in_training_only():
    model = ResNet(channels=(4,), blocks=(1,), dropout_rate=0.5)
    variables = model.init(jax.random.key(0), images(), train=False)

    def train(seed):
        return model.apply(
            variables, images(), train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(seed)}
        )[0]

    assert not np.allclose(train(0), train(1))
    np.testing.assert_array_equal(train(0), train(0))
    np.testing.assert_array_equal(
        model.apply(variables, images(), train=False), model.apply(variables, images(), train=False)
    )


def test_bfloat16_keeps_parameters_in_float32():
    fields = dict(channels=(8, 16), blocks=(1, 1))
    model = ResNet(**fields, dtype=jnp.bfloat16)
    variables = model.init(jax.random.key(0), images(), train=False)
    logits, updates = model.apply(
        variables, images(), train=True, mutable=["batch_stats", "intermediates"], capture_intermediates=True
    )
    assert logits.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((variables, updates["batch_stats"])))
    assert updates["intermediates"]["layer1_0"]["conv1"]["__call__"][0].dtype == jnp.bfloat16
    exact = ResNet(**fields).apply(variables, images(), train=True, mutable=["batch_stats"])[0]
    assert_close(logits, exact, relative=0.05)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(channels=()), "model.channels"),
        (dict(blocks=(1, 1)), "model.blocks"),
        (dict(kernel_size=4), "model.kernel_size=4"),
        (dict(shortcut_kernel_size=0), "model.shortcut_kernel_size"),
        (dict(pooling="max"), "model.pooling='max'"),
        (dict(pooling=9), "larger than the 8x8 map"),
    ],
)
def test_impossible_dimensions_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda: ResNet(**fields).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
