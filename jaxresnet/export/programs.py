"""Export of a run as one file: StableHLO or ONNX.

The file holds weights and preprocessing and does not need this package. It maps pixels (batch, 32, 32, 3) uint8 to
probabilities (batch, classes) float32, for any batch size.

    probabilities = jax.export.deserialize(pathlib.Path("model.stablehlo").read_bytes()).call(images)

    session = onnxruntime.InferenceSession("model.onnx")
    (probabilities,) = session.run(None, {"images": images})
"""

import contextlib
import dataclasses
import io
import json
import logging
from collections.abc import Callable

import jax
import jax.export
import jax.numpy as jnp

from jaxresnet.data.cifar import IMAGE_SHAPE
from jaxresnet.inference import Classifier
from jaxresnet.system.errors import UserError

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def _probabilities(classifier: Classifier) -> tuple[Callable[[jax.Array], jax.Array], jax.ShapeDtypeStruct]:
    """Return a pure function from pixels to probabilities, and the shape and dtype of its input."""
    (batch,) = jax.export.symbolic_shape("batch")
    # Weights become constants on the host, and convolutions the generic ones, so that the file suits any platform.
    constants = dataclasses.replace(
        classifier,
        variables=jax.device_get(classifier.variables),
        model=classifier.model.clone(conv_general_dilated=jax.lax.conv_general_dilated, relu=jax.nn.relu),
    )
    return lambda images: jax.nn.softmax(constants.forward(images)), jax.ShapeDtypeStruct(
        (batch, *IMAGE_SHAPE), jnp.uint8
    )


def to_stablehlo(classifier: Classifier) -> bytes:
    """Convert to a serialised ``jax.export.Exported`` for CPU, GPU and TPU."""
    function, images = _probabilities(classifier)
    return bytes(jax.export.export(jax.jit(function), platforms=PLATFORMS)(images).serialize())


def to_onnx(classifier: Classifier) -> bytes:
    """Convert to an ONNX model with input ``images`` and output ``probabilities``.

    Its metadata holds ``class_names`` as JSON. It computes in float32, as few ONNX runtimes convolve in bfloat16.

    Raises:
        UserError: the converter is not installed.
    """
    try:
        import jax2onnx
    except ImportError as error:
        raise UserError("--format=onnx needs the converter: pip install 'jaxresnet[onnx]'") from error
    function, images = _probabilities(dataclasses.replace(classifier, model=classifier.model.clone(dtype=jnp.float32)))
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # It warns about shapes that it then infers.
    with contextlib.redirect_stdout(io.StringIO()):
        model = jax2onnx.to_onnx(
            function, [images], model_name="jaxresnet", input_names=["images"], output_names=["probabilities"]
        )
    model.metadata_props.add(key="class_names", value=json.dumps(classifier.class_names))
    return model.SerializeToString()
