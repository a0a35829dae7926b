"""Export a run as one file, or as a release.

    jaxresnet export --workdir=runs/final --format=onnx

A file of stablehlo (for JAX, which promises to read it for six months) or onnx holds weights and preprocessing, and
needs nothing of this package. It maps pixels (batch, 32, 32, 3) uint8 to probabilities (batch, classes) float32, for
any batch size:

    probabilities = jax.export.deserialize(pathlib.Path("model.stablehlo").read_bytes()).call(images)

    session = onnxruntime.InferenceSession("model.onnx")
    (probabilities,) = session.run(None, {"images": images})

A file of torch or safetensors holds the weights under PyTorch's names. The folder of web is a page that classifies
pictures in the reader's browser, for any web server. A release is a finished run without checkpoints:
its config, its summary with the scores of the released weights, the weights in half precision, and a model card.
"""

import argparse
import dataclasses
import hashlib
import io
import json
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from ml_collections import ConfigDict

from jaxresnet import cli, released
from jaxresnet.calibration import fit_temperature, negative_log_likelihood, reliability
from jaxresnet.config import CONFIG_FILE, save_config
from jaxresnet.core.evaluation import Scores
from jaxresnet.core.state import create_transform
from jaxresnet.data.loading import Split, hold_out
from jaxresnet.evaluate import evaluate_run
from jaxresnet.inference import Classifier, RestoredRun, load, restore_run
from jaxresnet.portable import any_batch, convert_to_onnx, in_float32, portable
from jaxresnet.system.devices import set_up_jax
from jaxresnet.system.errors import UsageError, UserError, user_path
from jaxresnet.system.files import new_folder, output_file, write_whole
from jaxresnet.web.page import write_page
from jaxresnet.weights import StateDict, to_state_dict
from jaxresnet.workdir import folder as files
from jaxresnet.workdir.folder import WEIGHTS_FILE

FITTED = 5000  # training images that the temperature of a release is fitted on, if the run held out none
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def _probabilities(classifier: Classifier) -> tuple[Callable[[jax.Array], jax.Array], jax.ShapeDtypeStruct]:
    """Return a pure function from pixels to probabilities, and the shape and dtype of its input."""
    constants = portable(classifier)
    return lambda pixels: jax.nn.softmax(constants.forward(pixels) / constants.temperature), any_batch(constants)


def to_stablehlo(classifier: Classifier) -> bytes:
    """Convert to a serialised ``jax.export.Exported`` for CPU, GPU and TPU."""
    function, images = _probabilities(classifier)
    return bytes(jax.export.export(jax.jit(function), platforms=PLATFORMS)(images).serialize())


def to_onnx(classifier: Classifier) -> bytes:
    """Convert to an ONNX model with input ``images`` and output ``probabilities``.

    Its metadata holds ``class_names`` as JSON. It computes in float32.
    """
    model = convert_to_onnx(*_probabilities(in_float32(classifier)), ["probabilities"])
    model.metadata_props.add(key="class_names", value=json.dumps(classifier.class_names))
    return bytes(model.SerializeToString())


def to_torch(classifier: Classifier) -> bytes:
    """Convert to a file for ``torch.load``, which holds a bare state dict."""
    try:
        import torch
    except ImportError as error:
        raise UserError("--format=torch needs PyTorch (pip install torch); --format=safetensors does not") from error
    content, state_dict = io.BytesIO(), to_state_dict(classifier.variables)
    torch.save({key: torch.from_numpy(array) for key, array in state_dict.items()}, content)
    return content.getvalue()


def to_safetensors(classifier: Classifier) -> bytes:
    """Convert to a safetensors file of a state dict. Its metadata holds ``class_names`` as JSON."""
    return _safetensors(to_state_dict(classifier.variables), classifier.class_names)


def _safetensors(state_dict: StateDict, class_names: Sequence[str]) -> bytes:
    return safetensors.numpy.save(state_dict, {"class_names": json.dumps([*class_names])})


FORMATS = {"stablehlo": to_stablehlo, "onnx": to_onnx, "torch": to_torch, "safetensors": to_safetensors}


def in_half_precision(state_dict: Mapping[str, np.ndarray]) -> StateDict:
    """Return weights and statistics as float16. Raise UserError if a value is too large for it."""
    with np.errstate(over="ignore"):
        halves = {key: array.astype(np.float16) for key, array in state_dict.items()}
    if large := [key for key, array in halves.items() if not np.isfinite(array).all()]:
        raise UserError(f"{large[0]} holds values above 65,504, the largest number in half precision")
    return halves


def write_release(
    workdir: str | pathlib.Path, out: str, note: str, license: str, data_dir: str | None
) -> dict[str, Any]:
    """Make a release of a finished run, and score it on the test set from the released files.

    Args:
        workdir: run directory. Its last checkpoint is released.
        out: new folder.
        note: text for the card about how the run was made.
        license: license of the weights, for the card.
        data_dir: folder of the data, or ``None`` for the one in the run's config.

    Returns:
        The release's summary: the run's, and ``release`` with the scores and the SHA-256 of the weights.

    Raises:
        UserError: unfinished run, missing last checkpoint, existing ``out``, or unreadable data.
    """
    run_folder = released.resolve(workdir)
    with new_folder("--out", user_path(out)) as new:
        run, summary = _restore_finished(run_folder)
        names = files.read_class_names(run_folder, run.config)
        config = run.config.copy_and_resolve_references()
        config.dtype = "float32"  # Every device computes in it, and PyTorch then gives the same logits.
        config.dataset.data_dir = None  # Paths are valid only on this machine.
        for field in ("init_from", "branch_from"):
            config[field] = config[field] and pathlib.PurePath(config[field]).name
        data_dir = data_dir or run.config.dataset.data_dir
        save_config(config, new)
        files.write_class_names(names, new)
        if (run_folder / files.SPLIT_FILE).exists():
            shutil.copy(run_folder / files.SPLIT_FILE, new)
        imported = files.read_json(run_folder / files.IMPORTED_FILE, "restore it from a copy")
        if imported:
            imported["file"] = pathlib.PurePath(imported["file"]).name
            files.write_json(new / files.IMPORTED_FILE, imported)
        content = _safetensors(in_half_precision(to_state_dict(run.state.variables)), names)
        (new / WEIGHTS_FILE).write_bytes(content)
        summary["release"] = {"sha256": hashlib.sha256(content).hexdigest(), "temperature": {"value": 1.0}}
        files.write_summary(summary, new)
        train = files.load_data(run.config, run_folder, data_dir).train
        summary["release"] |= _score_release(new, config, names, train, data_dir)
        data = files.data_name(run_folder, run.config)
        about = {"data": data, "trained_in": run.config.dtype, "note": note, "license": license, "began_with": imported}
        summary["release"] |= about
        files.write_summary(summary, new)
        write_whole(new / files.CARD_FILE, format_card(config, summary))
    return summary


def _restore_finished(run_folder: pathlib.Path) -> tuple[RestoredRun, dict[str, Any]]:
    """Restore the last checkpoint of a finished run; return it and the run's summary."""
    summary = files.read_summary(run_folder)
    if summary and "release" in summary:
        raise UserError(f"{run_folder} is a release already; give the run that it was made from")
    if summary is None:
        raise UserError(f"{run_folder} holds no finished run; train it to its end first")
    run = restore_run(run_folder, "last")
    if run.step != summary["last"]["step"]:
        raise UserError(
            f"{run_folder}: its last checkpoint is of step {run.step:,}, but the run ended at step "
            f"{summary['last']['step']:,}; restore checkpoints/ from a copy"
        )
    return run, summary


def _score_release(
    release: pathlib.Path, config: ConfigDict, names: Sequence[str], train: Split, data_dir: str | None
) -> dict[str, Any]:
    """Score the released files on the test set, with the temperature that their training images give."""

    def score(mirror: bool) -> tuple[float, Scores]:
        scores = evaluate_run(str(release), "last", data_dir, mirror).scores
        return scores.sums.means("test")["test_accuracy"], scores

    mirrored = score(mirror=True)[0] if config.augment.flip else None
    accuracy, scores = score(mirror=False)
    temperature = fit_release(load(release), config, train)
    calibrated = scores.logits, scores.labels, temperature["value"]
    totals = scores.confusion.sum(1).tolist()  # 0 if a class has no test images
    recalls = [100 * row[i] / totals[i] if totals[i] else None for i, row in enumerate(scores.confusion.tolist())]
    return {
        "test_accuracy": accuracy,
        "test_accuracy_mirrored": mirrored,
        "test_accuracy_by_class": dict(zip(names, recalls, strict=True)),
        "test_images": int(scores.confusion.sum()),
        "temperature": temperature,
        "test_ece": 100 * reliability(*calibrated).error,
        "test_negative_log_likelihood": negative_log_likelihood(*calibrated),
    }


def fit_release(classifier: Classifier, config: ConfigDict, train: Split) -> dict[str, Any]:
    """Fit the temperature of a release on training images, never on the test set.

    Those that the run held out are taken as they are. If it held out none, up to ``FITTED`` images are cropped and
    flipped as in training and get a cutout of half their side, the size in its paper, because a model is too sure of
    images that it was trained on.

    Returns:
        ``value``, the number of ``images``, and what they were in ``method``.
    """
    if held_out := config.dataset.validation_size:
        split, method = hold_out(train, held_out)[1], "held-out training images"
        pixels = split.images
    else:
        split = hold_out(train, FITTED)[1] if len(train) > FITTED else train
        method = "training images, augmented as in training and by a cutout of half their side"
        harder = config.copy_and_resolve_references()
        harder.augment.update(cutout_size=config.dataset.image_size // 2, cutmix_alpha=0.0, small_images=())
        harder.augment.alternating_flip = False  # Random flips come from the transform, alternating ones do not.
        transform = dataclasses.replace(create_transform(harder), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        augmented, _ = transform.train(
            jax.random.key(config.seed), jnp.asarray(split.images), jnp.asarray(split.labels)
        )
        pixels = np.rint(255 * np.asarray(augmented)).astype(np.uint8)
    return {
        "value": fit_temperature(classifier.logits(pixels), split.labels),
        "images": len(pixels),
        "method": method,
    }


def format_card(config: ConfigDict, summary: Mapping[str, Any]) -> str:
    """Format a model card as Markdown, with the fields that the Hugging Face hub reads at its top."""
    scores, steps = summary["release"], summary["last"]["step"]
    data = json.dumps(scores["data"])
    single, mirrored = scores["test_accuracy"], scores["test_accuracy_mirrored"]
    fitted = scores["temperature"]
    by_class = scores["test_accuracy_by_class"].items()
    classes = "\n".join(f"| {name} | {'no images' if value is None else f'{value:.1f}'} |" for name, value in by_class)
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    began = ", ".join(f"{key} {value}" for key, value in (scores["began_with"] or {}).items() if value)
    return f"""---
license: {scores["license"]}
library_name: jaxresnet
pipeline_tag: image-classification
tags: [jax, flax, resnet]
datasets: [{data}]
metrics: [accuracy]
model-index:
- name: {json.dumps(config.name)}
  results:
  - task: {{type: image-classification}}
    dataset: {{name: {data}, type: {data}, split: test}}
    metrics: [{{type: accuracy, value: {single / 100:.4f}}}]
---
# A trained model

{summary["parameters"]:,} parameters, **{single:.2f}%** test accuracy: single view, {scores["test_images"]:,} images.
{"" if mirrored is None else f"With the mean of the logits of each image and its mirror image: {mirrored:.2f}%."}

{scores["note"]}

| | |
| --- | --- |
| config | `{config.name}` ({CONFIG_FILE}), {config.num_epochs} epochs, {steps:,} steps, seed {config.seed} |
| began with | {began or "random weights"} |
| time | {summary["wall_seconds"] / 3600:.1f} hours of training and evaluation{", from there on" if began else ""} |
| on | {summary["device"]}; {versions} |
| commit | {summary.get("git_commit") or "not recorded"} |
| computation | {scores["trained_in"]} in training; float32 in use and for all accuracies here |
| selection | none: the {"averages of the weights" if config.ema_decay else "weights"} after the last epoch |
| weights | `{WEIGHTS_FILE}`: float16, PyTorch's names and layouts; SHA-256 `{scores["sha256"]}` |
| confidences | softmax(logits / {fitted["value"]:.3f}), fitted on {fitted["images"]:,} {fitted["method"]}; ECE on the \
test set {scores["test_ece"]:.2f}%, negative log-likelihood {scores["test_negative_log_likelihood"]:.4f} |

| class | accuracy, % |
| --- | --- |
{classes}

All accuracies were measured from the file shipped here. To check them, run
`jaxresnet evaluate --workdir=` with this folder{"" if mirrored is None else ", and again with `--mirror`"}.
"""


def export(arguments: argparse.Namespace) -> None:
    """Export as the flags say."""
    set_up_jax()
    if arguments.format == "release":
        if arguments.out is None:
            raise UsageError("--format=release needs --out, a new folder")
        if arguments.force or arguments.checkpoint != "last":
            raise UsageError("--force and --checkpoint mean nothing with --format=release; leave them out")
        about = arguments.note, arguments.license, arguments.data_dir
        summary = write_release(arguments.workdir, arguments.out, *about)
        print(f"{arguments.out}: test accuracy {summary['release']['test_accuracy']:.2f}%, single view")
        return
    folder = arguments.workdir
    if arguments.format == "web":
        if arguments.out is None:
            raise UsageError("--format=web needs --out, a new folder")
        write_page(folder, arguments.checkpoint, arguments.out, arguments.data_dir, arguments.runtime)
        print(f"to see it: python -m http.server --directory={arguments.out}")
        return
    ending = "pth" if arguments.format == "torch" else arguments.format
    beside = folder if (folder / files.CHECKPOINTS_FOLDER).exists() else pathlib.Path()
    out = output_file("--out", arguments.out or str(beside / f"model.{ending}"), arguments.force)
    content = FORMATS[arguments.format](load(arguments.workdir, arguments.checkpoint))
    write_whole(out, content)
    print(f"{out}: {len(content) / 1e6:.1f} MB")


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = cli.Parser("export", __doc__)
    parser.add_run()
    parser.add_argument("--format", required=True, choices=[*FORMATS, "web", "release"], help="what to write")
    text = "file to write (default: model.FORMAT in the workdir; in the current folder for a release), or new "
    parser.add_argument("--out", help=f"{text}folder of a page or a release")
    parser.add_argument("--force", action="store_true", help="overwrite an existing file; a folder never is")
    parser.add_argument("--note", default="", help="text for a release's card about how the run was made")
    parser.add_argument("--license", default="unknown", help="license of a release's weights, for the card")
    text = "location of the data for a release's scores, or for a page's examples, if moved since training"
    parser.add_argument("--data_dir", help=text)
    parser.add_argument("--runtime", help="folder with onnxruntime-web for --format=web (default: from npm)")
    cli.run(export, parser, argv)


if __name__ == "__main__":
    main()
