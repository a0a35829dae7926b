"""Write the page: files that any web server can serve as they are, also under a sub-path.

``index.html`` with ``demo.js``, ``demo.css`` and ``pixels.js`` is the page, ``model.onnx`` the network, ``model.json``
what else the page must know, and ``examples.png`` its example pictures, side by side. ``RUNTIME`` are the two files of
the npm package onnxruntime-web that compute the network. Nothing is loaded from another host.
"""

import importlib.resources
import io
import json
import pathlib
import shutil
import subprocess
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxresnet import released
from jaxresnet.config import load_config
from jaxresnet.inference import Classifier, load
from jaxresnet.portable import any_batch, convert_to_onnx, in_float32, portable
from jaxresnet.system.errors import UserError, user_path
from jaxresnet.system.files import new_folder
from jaxresnet.workdir.folder import load_data

PAGE = ("index.html", "demo.css", "demo.js", "pixels.js")
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
PACKAGE = ("package.json", "package-lock.json")  # of npm, with the version and checksum of onnxruntime-web
EXAMPLES = 8  # classes with an example
EXAMPLES_FILE = "examples.png"  # also beside the weights of a released model, whose data may be far away
_SOURCE = importlib.resources.files("jaxresnet.web")


def logits_and_maps(classifier: Classifier, images: jax.typing.ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Compute logits, and how much each place of the last stage's output adds to each of them.

    The layers after that stage, average pooling and a linear one, are linear, so each logit is a sum over the places,
    plus the linear layer's bias. With global pooling, the part of a map above 0 is Grad-CAM of that class.

    Args:
        classifier: the model and its weights.
        images: pixels (batch, size, size, 3) uint8.

    Returns:
        Logits (batch, classes), and maps (batch, height, width, classes).
    """
    model, linear = classifier.model, classifier.variables["params"]["linear"]
    pixels = classifier.transform.eval(jnp.asarray(images))
    logits, state = model.apply(classifier.variables, pixels, train=False, mutable=["intermediates"])
    (output,) = state["intermediates"]["last_stage"]
    height, width, channels = output.shape[1:]
    if isinstance(model.pooling, int):
        side, area = model.pooling, model.pooling**2
        # Every place in a window of the pooling has the window's weights in the linear layer.
        windows = np.asarray(linear["kernel"]).reshape(channels, height // side, width // side, -1)
        weights = windows.transpose(1, 2, 0, 3).repeat(side, axis=0).repeat(side, axis=1)
        margins = (0, height - len(weights)), (0, width - weights.shape[1])  # incomplete windows, which are dropped
        weights = np.pad(weights, (*margins, (0, 0), (0, 0)))
    else:
        area, weights = height * width, linear["kernel"]
    return logits, ((output / area)[..., None, :] @ weights)[..., 0, :]


def to_onnx(classifier: Classifier) -> bytes:
    """Convert ``logits_and_maps`` to an ONNX model with input ``images`` and outputs ``logits`` and ``maps``.

    Large weights that float16 holds exactly, as those of a release, are stored in it, and cast back in the graph.
    """
    constants = in_float32(portable(classifier))
    model = convert_to_onnx(lambda images: logits_and_maps(constants, images), any_batch(constants), ["logits", "maps"])
    import onnx  # comes with the converter

    casts = []
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.size > 1000 and ((half := array.astype(np.float16)) == array).all():
            name = tensor.name
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}_half"))
            casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def draw_examples(images: np.ndarray, labels: np.ndarray) -> tuple[bytes, list[int]]:
    """Return a PNG of the first image of each of the first ``EXAMPLES`` classes, side by side, and their labels."""
    chosen = np.unique(labels)[:EXAMPLES].tolist()
    content = io.BytesIO()
    strip = np.concatenate([images[labels == label][0] for label in chosen], axis=1)
    Image.fromarray(strip).save(content, "PNG", optimize=True)
    return content.getvalue(), chosen


def read_runtime(folder: str | None) -> dict[str, bytes]:
    """Return the files in ``RUNTIME``, from ``folder``, or from npm if it is None.

    Raises:
        UserError: npm is missing or fails, or the folder lacks one of them.
    """
    package = json.loads(_SOURCE.joinpath(PACKAGE[0]).read_bytes())
    ((name, version),) = package["dependencies"].items()
    advice = f"give --runtime=FOLDER with {' and '.join(RUNTIME)} of {name} {version}"
    with tempfile.TemporaryDirectory() as temporary:
        if folder is not None:
            place = user_path(folder)
        elif (npm := shutil.which("npm")) is None:
            raise UserError(f"the page needs {name}, which npm downloads: install Node.js, or {advice}")
        else:
            for file in PACKAGE:
                pathlib.Path(temporary, file).write_bytes(_SOURCE.joinpath(file).read_bytes())
            done = subprocess.run([npm, "ci", "--ignore-scripts"], cwd=temporary, capture_output=True, text=True)
            if done.returncode:
                reason = " ".join(done.stderr.split())
                raise UserError(f"npm could not download {name} ({reason}); or {advice}")
            place = pathlib.Path(temporary, "node_modules", name, "dist")
        if missing := [file for file in RUNTIME if not (place / file).is_file()]:
            raise UserError(f"{place} holds no {missing[0]}; {advice}")
        return {file: (place / file).read_bytes() for file in RUNTIME}


def write_page(workdir: pathlib.Path, checkpoint: str, out: str, data_dir: str | None, runtime: str | None) -> None:
    """Write the page of a run into a new folder.

    Args:
        workdir: run directory or release.
        checkpoint: ``"best"``, ``"last"``, or a step number.
        out: new folder.
        data_dir: folder of the run's data, whose test set has the examples, or None for the one in the run's config.
        runtime: folder with the files in ``RUNTIME``, or None to download them.

    Raises:
        UserError: ``out`` exists, or the run, its data or the runtime cannot be read.
    """
    with new_folder("--out", user_path(out)) as folder:
        for name, content in _page_files(workdir, checkpoint, data_dir, runtime).items():
            (folder / name).write_bytes(content)


def _page_files(workdir: pathlib.Path, checkpoint: str, data_dir: str | None, runtime: str | None) -> dict[str, bytes]:
    config = load_config(workdir)
    files: dict[str, bytes] = {name: _SOURCE.joinpath(name).read_bytes() for name in PAGE}
    files |= read_runtime(runtime)
    if workdir in released.MODELS.values() and data_dir is None:
        files[EXAMPLES_FILE], examples = (workdir / EXAMPLES_FILE).read_bytes(), [*range(EXAMPLES)]
    else:
        dataset = load_data(config, workdir, data_dir)
        files[EXAMPLES_FILE], examples = draw_examples(dataset.test.images, dataset.test.labels)
    classifier = load(workdir, checkpoint)
    names = classifier.class_names
    files["model.onnx"] = to_onnx(classifier)
    about = {
        "class_names": names,
        "examples": [names[label] for label in examples],
        "image_size": classifier.image_size,
        "temperature": classifier.temperature,
        "mirror": bool(config.augment.flip),  # whether the network has learnt from mirror images
        "bytes": {name: len(files[name]) for name in ("model.onnx", RUNTIME[1])},  # for the bar while they load
    }
    files["model.json"] = json.dumps(about, indent=2).encode()
    return files
