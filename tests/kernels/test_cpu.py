"""The CPU's convolutions compared with XLA's, and the cases that use them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxresnet.core.model import ResNet
from jaxresnet.kernels import convolution
from jaxresnet.kernels.convolution import (
    conv_general_dilated,
    in_parts,
    paired,
    pointwise_strided,
    rows,
    strided,
    winograd_3x3,
)

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def reference(stride, padding):
    return lambda x, kernel: lax.conv_general_dilated(
        x, kernel, (stride, stride), ((padding, padding),) * 2, dimension_numbers=DIMENSIONS
    )


# Algorithms, with kernel size, stride and padding.
ALGORITHMS = {
    "winograd": (winograd_3x3, 3, 1, 1),
    "paired": (paired, 3, 1, 1),
    "strided": (strided, 3, 2, 1),
    "pointwise": (pointwise_strided, 1, 2, 0),
    "in parts": (in_parts(reference(1, 2)), 5, 1, 2),
}
BY_DTYPE = ALGORITHMS | {"rows": (rows, 3, 1, 1)}  # rows is for bfloat16


def arrays(batch, height, width, channels, features, size, stride, dtype):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, height, width, channels))
    kernel = rng.normal(size=(size, size, channels, features)) / (size * channels**0.5)
    grad = rng.normal(size=(batch, height // stride, width // stride, features))
    return [np.asarray(array, dtype) for array in (x, kernel, grad)]


def value_and_gradients(function, x, kernel, grad):
    value, pullback = jax.vjp(function, x, kernel)
    return value, *pullback(grad)


# The shapes cover one image, a prime number of images, several chunks, unequal sides, and more channels in or out.
SHAPES = [(1, 2, 2, 1, 1), (7, 4, 6, 3, 5), (6, 8, 8, 5, 2), (13, 16, 16, 4, 4), (32, 32, 32, 3, 3), (5, 10, 4, 8, 8)]


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("values", [1, 3000, 2**30])
def test_in_float64_the_algorithms_are_exact(name, shape, values, monkeypatch):
    """Chunks hold one image, a few, or all."""
    monkeypatch.setattr(convolution, "CHUNK_VALUES", values)
    algorithm, size, stride, padding = ALGORITHMS[name]
    with jax.enable_x64(True):
        inputs = arrays(*shape, size, stride, np.float64)
        actual = value_and_gradients(algorithm, *inputs)
        expected = value_and_gradients(reference(stride, padding), *inputs)
        for a, b in zip(actual, expected, strict=True):
            assert a.dtype == np.float64
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11 * np.abs(b).max())


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize(
    "shape", [(16, 32, 32, 16, 16), (8, 8, 8, 32, 64), (16, 32, 32, 64, 64), (16, 16, 16, 128, 64), (8, 8, 8, 256, 256)]
)
def test_float32_is_exact_as_xla(name, shape):
    """Errors against float64, relative to the largest value, are at most four times XLA's."""
    algorithm, size, stride, padding = ALGORITHMS[name]
    inputs = arrays(*shape, size, stride, np.float32)
    actual = jax.jit(lambda *a: value_and_gradients(algorithm, *a))(*inputs)
    xla = jax.jit(lambda *a: value_and_gradients(reference(stride, padding), *a))(*inputs)
    with jax.enable_x64(True):
        exact = value_and_gradients(reference(stride, padding), *(np.asarray(array, np.float64) for array in inputs))
        exact = [np.asarray(array) for array in exact]
    for a, b, true in zip(actual, xla, exact, strict=True):
        ours, theirs = (np.abs(np.asarray(each, np.float64) - true).max() / np.abs(true).max() for each in (a, b))
        assert ours < max(4 * theirs, 2e-6)


@pytest.mark.parametrize("shape", [(16, 32, 32, 32, 64), (7, 5, 6, 64, 32), (8, 4, 4, 128, 128), (1, 1, 1, 32, 32)])
@pytest.mark.parametrize("values", [1, 3000, 2**30])
def test_bfloat16_rounds_only_the_result(shape, values, monkeypatch):
    """Sums are float32. The only error is the rounding of values and gradients to bfloat16, half a unit of 2**-8."""
    monkeypatch.setattr(convolution, "CHUNK_VALUES", values)
    inputs = [jnp.asarray(array, jnp.bfloat16) for array in arrays(*shape, 3, 1, np.float32)]
    actual = jax.jit(lambda *a: value_and_gradients(rows, *a))(*inputs)
    expected = value_and_gradients(reference(1, 1), *(each.astype(jnp.float32) for each in inputs))
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == jnp.bfloat16
        tolerance = {"rtol": 2**-8, "atol": 1e-6 * np.abs(b).max()}
        np.testing.assert_allclose(np.asarray(a, np.float32), b, **tolerance)


def is_used(x_shape, kernel_shape, strides=(1, 1), padding=((1, 1), (1, 1)), dtype=jnp.float32, **options):
    """Return True if the project's algorithms compute a convolution. Also check the shape of its result."""
    x, kernel = jax.ShapeDtypeStruct(x_shape, dtype), jax.ShapeDtypeStruct(kernel_shape, dtype)

    def convolve(x, kernel):
        return conv_general_dilated(x, kernel, strides, padding, dimension_numbers=DIMENSIONS, **options)

    assert (
        jax.eval_shape(convolve, x, kernel).shape
        == jax.eval_shape(
            lambda x, k: lax.conv_general_dilated(x, k, strides, padding, dimension_numbers=DIMENSIONS, **options),
            x,
            kernel,
        ).shape
    )
    program = str(jax.make_jaxpr(convolve)(x, kernel))
    return "window_strides=(1, 2)" in program or "conv_general_dilated" not in program


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (((4, 32, 32, 64), (3, 3, 64, 64)), {}),
        (((4, 8, 8, 256), (3, 3, 256, 256)), {}),
        (((4, 8, 8, 32), (3, 3, 32, 64)), {}),
        (((4, 32, 32, 16), (3, 3, 16, 16)), {}),
        (((4, 32, 32, 3), (3, 3, 3, 16)), {}),  # the first convolution of a small network
        (((4, 32, 32, 16), (3, 3, 16, 32)), {"strides": (2, 2)}),
        (((4, 32, 32, 64), (3, 3, 64, 128)), {"strides": (2, 2)}),
        (((4, 32, 32, 16), (1, 1, 16, 32)), {"strides": (2, 2), "padding": ((0, 0), (0, 0))}),
        (((4, 32, 32, 64), (1, 1, 64, 128)), {"strides": (2, 2), "padding": ((0, 0), (0, 0))}),
        (((4, 32, 32, 64), (3, 3, 64, 64)), {"dtype": jnp.bfloat16}),
        (((4, 5, 5, 64), (3, 3, 64, 64)), {"dtype": jnp.bfloat16}),
        (((4, 32, 32, 64), (3, 3, 64, 128)), {"dtype": jnp.bfloat16, "strides": (2, 2)}),
        (((4, 32, 32, 64), (1, 1, 64, 128)), {"dtype": jnp.bfloat16, "strides": (2, 2), "padding": ((0, 0), (0, 0))}),
        (((4, 32, 32, 64), (3, 3, 64, 64)), {"lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "feature_group_count": 1}),
    ],
)
def test_where_they_are_used(arguments, options):
    assert is_used(*arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (((4, 32, 32, 3), (3, 3, 3, 64)), {}),  # the stem
        (((4, 32, 32, 16), (3, 3, 16, 64)), {}),
        (((4, 32, 32, 8), (3, 3, 8, 16)), {"strides": (2, 2)}),
        (((4, 4, 4, 512), (3, 3, 512, 512)), {}),
        (((4, 32, 32, 64), (5, 5, 64, 64)), {"padding": ((2, 2), (2, 2))}),
        (((4, 32, 32, 64), (3, 3, 64, 64)), {"padding": ((0, 0), (0, 0))}),
        (((4, 33, 32, 64), (3, 3, 64, 64)), {}),
        (((4, 32, 32, 64), (3, 3, 64, 64)), {"dtype": jnp.float16}),
        (((4, 32, 32, 16), (3, 3, 16, 16)), {"dtype": jnp.bfloat16}),
        (((4, 5, 5, 64), (3, 3, 64, 128)), {"dtype": jnp.bfloat16, "strides": (2, 2)}),
        (((4, 8, 8, 33), (3, 3, 33, 64)), {"dtype": jnp.bfloat16}),
        (((4, 8, 8, 64), (3, 3, 64, 65)), {"dtype": jnp.bfloat16}),
        (((4, 32, 32, 64), (3, 3, 64, 64)), {"rhs_dilation": (2, 2)}),
        (((4, 32, 32, 128), (3, 3, 64, 64)), {"feature_group_count": 2}),
    ],
)
def test_where_they_are_not(arguments, options):
    assert not is_used(*arguments, **options)


def test_other_convolutions_have_their_kernel_gradient_in_parts():
    """There are parts of 8, 8 and 4 images. Forward and the input's gradient are one convolution each."""
    inputs = arrays(20, 8, 8, 3, 4, 5, 1, np.float32)

    def differentiate(x, kernel, grad):
        def convolve(x, kernel):
            return conv_general_dilated(x, kernel, (1, 1), ((2, 2), (2, 2)), dimension_numbers=DIMENSIONS)

        return value_and_gradients(convolve, x, kernel, grad)

    assert str(jax.make_jaxpr(differentiate)(*inputs)).count("conv_general_dilated[") == 2 + 3


@pytest.mark.parametrize(
    ("name", "value"), [("default_backend", "gpu"), ("default_backend", "tpu"), ("device_count", 8)]
)
def test_other_devices_use_xla(monkeypatch, name, value):
    """The traced program of the model equals the one with lax's convolutions, character by character."""

    def traced(model):
        def forward(x):
            return model.init_with_output(jax.random.key(0), x, train=False)[0]

        return str(jax.make_jaxpr(forward)(jnp.zeros((2, 32, 32, 3))))

    plain = ResNet(channels=(64, 128), blocks=(1, 1), conv_general_dilated=lax.conv_general_dilated)
    on_cpu = traced(plain.clone(conv_general_dilated=conv_general_dilated, relu=convolution.relu))
    monkeypatch.setattr(jax, name, lambda *arguments: value)
    elsewhere = traced(plain.clone(conv_general_dilated=conv_general_dilated, relu=convolution.relu))
    assert elsewhere == traced(plain)
    assert "custom_vjp" in on_cpu and "optimization_barrier" in on_cpu and "optimization_barrier" not in traced(plain)
    assert "optimization_barrier" not in elsewhere


@pytest.mark.parametrize("channels", [16, 64])
def test_relu_output_is_a_separate_array(channels):
    def sum_of(relu):
        return lambda x: jnp.sin(relu(jnp.cos(x))).sum()

    x = np.random.default_rng(0).normal(size=(24, 32, 32, channels)).astype(np.float32)
    x[:, :2] = np.arccos(0)  # here ReLU's input is about 0, on the side with gradient 0
    actual = jax.jit(jax.value_and_grad(sum_of(convolution.relu)))(x)
    expected = jax.jit(jax.value_and_grad(sum_of(jax.nn.relu)))(x)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    # XLA fuses nothing with a loop. It removes a barrier before it fuses.
    assert ("while" in jax.jit(convolution.relu).lower(x).compile().as_text()) == (channels == 16)


ON_SEVERAL_DEVICES = """
import json
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxresnet.kernels.convolution import conv_general_dilated
from jaxresnet.core.programs import ambient, create_mesh
from tests.kernels.test_cpu import BY_DTYPE, DIMENSIONS, arrays, value_and_gradients

results = {}
for name, (_, size, stride, padding) in BY_DTYPE.items():
    channels = 16 if name == "paired" else 64
    dtype = "bfloat16" if name == "rows" else "float32"
    inputs = [array.astype(dtype) for array in arrays(8, 16, 16, channels, channels, size, stride, np.float32)]
    for count in (1, 2, 3, 4):
        mesh = create_mesh(jax.devices()[:count])
        divided, whole = (NamedSharding(mesh, spec) for spec in (PartitionSpec("data"), PartitionSpec()))

        def convolve(x, kernel):
            with ambient(mesh):
                x = jax.lax.with_sharding_constraint(x, divided)
                paddings = ((padding, padding),) * 2
                return conv_general_dilated(x, kernel, (stride, stride), paddings, dimension_numbers=DIMENSIONS)

        def differentiate(x, kernel, grad):
            with ambient(mesh):
                return value_and_gradients(convolve, x, kernel, grad)

        outputs = jax.jit(differentiate, in_shardings=whole, out_shardings=whole)(*inputs)
        traced = str(jax.make_jaxpr(differentiate)(*inputs))
        results[f"{name} {count}"] = {
            "served": "window_strides=(1, 2)" in traced or "conv_general_dilated" not in traced,
            "divided": "shard_map" in traced,
            "outputs": [np.asarray(output, np.float32).ravel()[::37].tolist() for output in outputs],
        }
print(json.dumps(results))
"""


@pytest.mark.reliability
def test_several_devices_agree_with_one(run_on_devices):
    """Each device computes its own images. Three devices do not divide a batch of eight, so XLA's are used."""
    results = run_on_devices(ON_SEVERAL_DEVICES, 4)
    for name in BY_DTYPE:
        # The order of sums changes float32's last digits, and so about one value in 500 by one step of bfloat16.
        rtol = 2**-7 if name == "rows" else 1e-5
        for count in (1, 2, 3, 4):
            result = results[f"{name} {count}"]
            assert result["divided"] == (count in (2, 4))
            assert result["served"] == (count != 3 and name != "in parts")
            for actual, expected in zip(result["outputs"], results[f"{name} 1"]["outputs"], strict=True):
                np.testing.assert_allclose(actual, expected, rtol=rtol, atol=3e-6 * np.abs(expected).max())
