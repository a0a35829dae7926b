"""A classifier as a pure function for any platform, and the converter of such functions to ONNX."""

import contextlib
import dataclasses
import io
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from jaxresnet.inference import Classifier
from jaxresnet.kernels import convolution
from jaxresnet.system.errors import UserError


def portable(classifier: Classifier) -> Classifier:
    """Return the classifier with its weights on the host, and without kernels that suit one platform alone."""
    # Kernels for CPUs are replaced by the functions that they compute.
    generic = {convolution.conv_general_dilated: jax.lax.conv_general_dilated, convolution.relu: jax.nn.relu}
    used = {name: getattr(classifier.model, name) for name in ("conv_general_dilated", "relu")}
    model = classifier.model.clone(**{name: generic.get(function, function) for name, function in used.items()})
    return dataclasses.replace(classifier, model=model, variables=jax.device_get(classifier.variables))


def in_float32(classifier: Classifier) -> Classifier:
    """Return the classifier computing in float32, as few ONNX runtimes convolve in bfloat16."""
    return dataclasses.replace(classifier, model=classifier.model.clone(dtype=jnp.float32))


def any_batch(classifier: Classifier) -> jax.ShapeDtypeStruct:
    """Return the shape and dtype of the classifier's pixels, for any batch size."""
    (batch,) = jax.export.symbolic_shape("batch")
    return jax.ShapeDtypeStruct((batch, classifier.image_size, classifier.image_size, 3), jnp.uint8)


def convert_to_onnx(function: Callable[..., Any], images: jax.ShapeDtypeStruct, outputs: Sequence[str]) -> Any:
    """Convert a function of ``images`` to an ``onnx.ModelProto`` with these outputs.

    Raises:
        UserError: the converter is not installed.
    """
    try:
        import jax2onnx
    except ImportError as error:
        raise UserError("ONNX needs the converter: pip install 'jaxresnet[onnx]'") from error
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # It warns about shapes that it then infers.
    with contextlib.redirect_stdout(io.StringIO()):
        return jax2onnx.to_onnx(
            function, [images], model_name="jaxresnet", input_names=["images"], output_names=[*outputs]
        )
