"""Show where a network looks in images: Grad-CAM and input gradients, and the training images that it finds most alike.

    jaxresnet explain cat.jpg
    jaxresnet explain cat.jpg --neighbours=4 --out=why.png
    jaxresnet explain --embedding --out=map.png

--embedding draws the run's test images in the plane by t-SNE of their features, which places similar ones side by side.
"""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxresnet import cli
from jaxresnet.config import load_config
from jaxresnet.data.images import to_pixels
from jaxresnet.system.errors import UsageError
from jaxresnet.system.files import PICTURES, default_style, output_file, write_figure
from jaxresnet.system.terminal import image_bar
from jaxresnet.workdir.folder import load_data

if TYPE_CHECKING:  # JAX takes seconds to import, so a mistyped flag is reported before that.
    from jaxresnet.inference import Classifier

BATCH = 32  # images whose gradients are computed at a time: 48 took 1.2 GB on a CPU
EMBEDDED = 2000  # test images in an embedding, because t-SNE takes a second for every few hundred

Maps = Float[np.ndarray, "size height width"]
Pixels = UInt8[np.ndarray, "size height width 3"]


def grad_cam(classifier: "Classifier", pixels: Pixels, labels: Int[np.ndarray, " size"]) -> Maps:
    """Compute Grad-CAM (Selvaraju et al., 2017) at the last stage, as maps in [0, 1] of that stage's height and width.

    Each map is the part above 0 of the mean over channels, weighted by the mean gradient of the label's logit. It is
    divided by its largest value.
    """
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    last = f"layer{len(classifier.model.channels)}_{classifier.model.blocks[-1] - 1}"
    shape = jax.eval_shape(lambda images: _last_stage(classifier, images), pixels).shape

    def logits(change: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs = []

        def add(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
            output = call(*arguments, **keywords)
            if context.module.path == (last,):
                outputs.append(output)
                return output + change.astype(output.dtype)
            return output

        with nn.intercept_methods(add):
            logits = classifier.forward(pixels)
        return jnp.sum(logits[jnp.arange(len(labels)), labels]), outputs[0]

    gradient, output = jax.grad(logits, has_aux=True)(jnp.zeros(shape))
    weights = jnp.mean(gradient, axis=(1, 2), keepdims=True)
    return _in_unit_range(np.asarray(jax.nn.relu(jnp.sum(weights * output, axis=-1)), np.float32))


def _last_stage(classifier: "Classifier", images: Any) -> Any:
    pixels = classifier.transform.eval(images)
    _, state = classifier.model.apply(classifier.variables, pixels, train=False, mutable=["intermediates"])
    return state["intermediates"]["last_stage"][0]


def input_gradients(classifier: "Classifier", pixels: Pixels, labels: Int[np.ndarray, " size"]) -> Maps:
    """Compute the largest of the three colours' absolute gradients of the label's logit, as maps in [0, 1]."""
    import jax
    import jax.numpy as jnp

    def of_labels(images: jax.Array) -> jax.Array:
        return jnp.sum(classifier.forward(images)[jnp.arange(len(labels)), labels])

    gradient = jax.grad(of_labels)(jnp.asarray(pixels, jnp.float32))
    return _in_unit_range(np.abs(np.asarray(gradient)).max(axis=-1))


def _in_unit_range(maps: Maps) -> Maps:
    return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)


def compute_features(classifier: "Classifier", pixels: Pixels) -> Float[np.ndarray, "size values"]:
    """Return ``classifier.features(pixels)``, with a bar that shows the time left."""
    features = []
    with image_bar(len(pixels)) as bar:
        for start in range(0, len(pixels), classifier.batch_size):
            features.append(classifier.features(pixels[start : start + classifier.batch_size]))
            bar.update(len(features[-1]))
    return np.concatenate(features)


def nearest(
    features: Float[np.ndarray, "size values"], others: Float[np.ndarray, "others values"], count: int
) -> Int[np.ndarray, "size count"]:
    """Return the indices of the ``count`` other features with the largest cosine similarity, the most alike first."""
    features, others = (each / np.linalg.norm(each, axis=-1, keepdims=True) for each in (features, others))
    return np.argsort(-features @ others.T, axis=-1, kind="stable")[:, :count]


def embed(features: Float[np.ndarray, "size values"]) -> Float[np.ndarray, "size 2"]:
    """Place features in the plane by t-SNE, from the first two principal components."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(features)


def _in_batches(
    function: Callable[..., Maps], classifier: "Classifier", pixels: Pixels, labels: Int[np.ndarray, " size"]
) -> Maps:
    starts = range(0, len(pixels), BATCH)
    return np.concatenate([function(classifier, pixels[i : i + BATCH], labels[i : i + BATCH]) for i in starts])


def draw(classifier: "Classifier", pixels: Pixels, neighbours: tuple[Pixels, Int[np.ndarray, " others"]] | None) -> Any:
    """Return a figure with a row for each image: itself, Grad-CAM, input gradients, and its neighbours if given.

    ``neighbours`` are images in the order of the rows, equally many for each, and their labels.
    """
    from matplotlib.figure import Figure  # imported here because it takes a second

    probabilities = classifier.probabilities(pixels)
    labels = probabilities.argmax(-1)
    maps, gradients = (_in_batches(each, classifier, pixels, labels) for each in (grad_cam, input_gradients))
    count = len(neighbours[0]) // len(pixels) if neighbours else 0
    figure = Figure(figsize=(1.7 * (3 + count), 1.95 * len(pixels)), layout="constrained")
    extent = (0, pixels.shape[2], pixels.shape[1], 0)
    for row, axes in enumerate(figure.subplots(len(pixels), 3 + count, squeeze=False)):
        name = f"{classifier.class_names[labels[row]]} {100 * probabilities[row].max():.0f}%"
        titles = [name, "Grad-CAM", "input gradient"]
        for each in axes[:2]:
            each.imshow(pixels[row], extent=extent, interpolation="nearest")
        axes[1].imshow(maps[row], "inferno", extent=extent, interpolation="bilinear", alpha=0.6)
        axes[2].imshow(gradients[row], "inferno", extent=extent, interpolation="nearest")
        for column in range(count):
            image = row * count + column
            axes[3 + column].imshow(neighbours[0][image], extent=extent, interpolation="nearest")  # type: ignore[index]
            titles.append(classifier.class_names[neighbours[1][image]])  # type: ignore[index]
        for each, title in zip(axes, titles, strict=True):
            each.set_title(title, fontsize=9, pad=3, parse_math=False)
            each.axis("off")
    return figure


def draw_embedding(
    places: Float[np.ndarray, "size 2"], labels: Int[np.ndarray, " size"], names: tuple[str, ...]
) -> Any:
    """Return a figure of the embedding, with each class's name at the median of its images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 7), layout="constrained")
    axes = figure.subplots()
    axes.scatter(places[:, 0], places[:, 1], c=labels, cmap="tab20" if len(names) > 10 else "tab10", s=6, linewidths=0)
    for label in np.unique(labels):
        x, y = np.median(places[labels == label], axis=0)
        box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5}
        axes.text(x, y, names[label], ha="center", va="center", bbox=box, parse_math=False)
    axes.axis("off")
    return figure


def explain(arguments: argparse.Namespace) -> None:
    """Draw what the flags ask for."""
    if arguments.embedding == bool(arguments.images) or arguments.neighbours < 0:
        raise UsageError("give images to explain, with --neighbours=0 or more, or else --embedding alone")
    out = output_file("--out", arguments.out, arguments.force, PICTURES)

    from jaxresnet.inference import load
    from jaxresnet.system.devices import set_up_jax

    set_up_jax()
    classifier, dataset = load(arguments.workdir, arguments.checkpoint), None
    if arguments.embedding or arguments.neighbours:
        config = load_config(arguments.workdir)
        dataset = load_data(config, arguments.workdir, arguments.data_dir)
    if arguments.embedding and dataset:
        test = dataset.test
        shown = slice(0, EMBEDDED)
        places = embed(compute_features(classifier, test.images[shown]))
        with default_style():
            write_figure(out, draw_embedding(places, test.labels[shown], classifier.class_names))
    else:
        pixels, neighbours = to_pixels(arguments.images, classifier.image_size), None
        if dataset:
            train = dataset.train
            theirs = compute_features(classifier, train.images)
            found = nearest(classifier.features(pixels), theirs, arguments.neighbours).ravel()
            neighbours = train.images[found], train.labels[found]
        with default_style():
            write_figure(out, draw(classifier, pixels, neighbours))
    print(out)


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = cli.Parser("explain", __doc__)
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="image files")
    parser.add_run()
    parser.add_argument("--out", default="explained.png", help="picture to write (default: explained.png)")
    parser.add_argument(
        "--neighbours", type=int, default=0, help="most similar training images to draw beside each image"
    )
    parser.add_argument("--embedding", action="store_true", help=f"draw {EMBEDDED:,} test images in the plane instead")
    parser.add_argument("--data_dir", help="folder of the run's data, if they have moved since training")
    parser.add_argument("--force", action="store_true", help="overwrite the file that --out names")
    cli.run(explain, parser, argv)


if __name__ == "__main__":
    main()
