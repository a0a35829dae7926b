"""Convolutions of bfloat16 on several accelerators, computed on CPUs that take their place."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import REPOSITORY

ON_FOUR_DEVICES = """
import json
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jaxresnet.kernels import sharding
from jaxresnet.kernels.convolution import conv_general_dilated
from jaxresnet.core.programs import ambient, create_mesh

sharding.platform = lambda: "gpu"
mesh, results = create_mesh(), {}
divided, whole = (NamedSharding(mesh, spec) for spec in (PartitionSpec("data"), PartitionSpec()))
rng = np.random.default_rng(0)
for batch in (8, 6):
    for stride in (1, 2):
        side = 8 // stride
        shapes = (batch, 8, 8, 4), (3, 3, 4, 5), (batch, side, side, 5)
        x, kernel, grad = (jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in shapes)

        def differentiate(convolve):
            def of_images(x, kernel):
                x = lax.with_sharding_constraint(x, divided)
                return convolve(
                    x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
                )

            def all_of(x, kernel, grad):
                with ambient(mesh):
                    output, backward = jax.vjp(of_images, x, kernel)
                    return output, *backward(grad)

            return jax.jit(all_of, in_shardings=whole, out_shardings=whole)

        inputs = (x, kernel, grad)
        actual = differentiate(conv_general_dilated)(*inputs)
        expected = differentiate(lax.conv_general_dilated)(*(array.astype(jnp.float32) for array in inputs))
        compiled = differentiate(conv_general_dilated).lower(*inputs).as_text()
        results[f"{batch} {stride}"] = {
            "dtypes": sorted({array.dtype.name for array in actual}),
            "divided": "all_reduce" in compiled,
            "pairs": [[np.asarray(a, np.float32).ravel().tolist(), np.asarray(b).ravel().tolist()]
                      for a, b in zip(actual, expected)],
        }
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results():
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", ON_FOUR_DEVICES], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("batch", "divided"), [(8, True), (6, False)])
def test_results_are_float32_rounded(results, batch, divided, stride):
    """Each device rounds its share of the kernel gradient to bfloat16, and the sum is rounded once more."""
    result = results[f"{batch} {stride}"]
    assert result["dtypes"] == ["bfloat16"] and result["divided"] == divided
    for actual, expected in result["pairs"]:
        np.testing.assert_allclose(actual, expected, rtol=2**-8, atol=2**-8 * np.abs(expected).max())
