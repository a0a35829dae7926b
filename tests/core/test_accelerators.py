"""The programs of training, lowered for GPUs and TPUs. This needs neither, nor their compilers."""

import collections
import re

import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from configs import final
from scripts.compile_for import lower, programs_of

PLATFORMS = ("cuda", "tpu")


def lowered(platform, devices, dtype, index):
    """Return the text of a program of the final model: of training, of its last batch, or of the evaluation."""
    config = final.get_config()
    config.dtype = dtype
    device = AbstractDevice(device_kind=platform, num_cores=None, platform=platform)
    mesh = AbstractMesh((devices,), ("data",), (AxisType.Auto,), abstract_device=device)  # as that of training
    return lower(config, mesh, programs_of(config)[index], (platform,))[0].as_text()


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("index", "convolutions", "loops"), [(0, 74, 1), (1, 74, 0), (2, 25, 1)])
def test_programs_have_convolutions_without_loops(platform, dtype, index, convolutions, loops):
    text = lowered(platform, 1, dtype, index)
    found = re.findall(r"stablehlo\.convolution\(.*?: \(tensor<\S+x(\w+)>", text)
    assert len(found) == convolutions and set(found) == {{"float32": "f32", "bfloat16": "bf16"}[dtype]}
    assert text.count("stablehlo.while") == loops
    assert "f64" not in text


def test_cpu_program_differs():
    """XLA has the first convolution and its kernel's gradient, for 80 images in parts of 8.

    So the tests above would fail if the mesh did not choose the convolutions.
    """
    assert lowered("cpu", 1, "float32", 1).count("stablehlo.convolution") == 1 + 80 // 8


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("index", [0, 1])
def test_devices_sum_gradients_in_float32(platform, index):
    """Each of the 25 convolutions ends in a sum over the devices. Batches of 128 and 80 images divide by 8."""
    text = lowered(platform, 8, "bfloat16", index)
    sums = re.findall(r'"stablehlo\.all_reduce"\(.*?\) : \(tensor<(?:\d+x)*(\w+)>\) -> tensor', text, re.DOTALL)
    assert len(sums) == 25 and set(sums) == {"f32"}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_undivided_batches_have_float32_gradients(platform):
    """The last 80 images on 32 devices. Their sums are the compiler's, in the type of the gradients."""
    text = lowered(platform, 32, "bfloat16", 1)
    found = re.findall(r"stablehlo\.convolution\(.*?: \(tensor<\S+x(\w+)>", text)
    assert collections.Counter(found) == {"bf16": 49, "f32": 25} and "all_reduce" not in text


@pytest.mark.parametrize("platform", PLATFORMS)
def test_evaluation_is_in_bfloat16(platform):
    """Its batches of 1,000 images do not divide by 32."""
    text = lowered(platform, 32, "bfloat16", 2)
    assert set(re.findall(r"stablehlo\.convolution\(.*?: \(tensor<\S+x(\w+)>", text)) == {"bf16"}
