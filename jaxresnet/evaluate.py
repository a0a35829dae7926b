"""Score a run, or a release, on its whole test set: accuracy, also by class, loss, and how honest confidences are.

    jaxresnet evaluate --workdir=runs/final

With --mirror, the scores are of the mean over each image and its mirror image. The loss is that of the logits. The
negative log-likelihood and the expected calibration error (ECE, of 15 bins; Guo et al., 2017) are those of the
probabilities, for which a release divides logits by its temperature. --reliability=FILE draws accuracy over confidence.
"""

import argparse
import pathlib
import textwrap
from typing import TYPE_CHECKING, NamedTuple

from jaxresnet import cli, released
from jaxresnet.config import load_config
from jaxresnet.system.errors import UserError
from jaxresnet.system.files import PICTURES, default_style, output_file, write_figure

if TYPE_CHECKING:
    from jaxresnet.core.evaluation import Scores


class Evaluation(NamedTuple):
    """The scores of a checkpoint on the test set."""

    step: int  # training steps before the checkpoint
    scores: "Scores"  # scores over all test images


def evaluate_run(
    workdir: str | pathlib.Path, checkpoint: str, data_dir: str | None = None, mirror: bool = False
) -> Evaluation:
    """Score a checkpoint on the whole test set, whatever split the run was evaluated on in training.

    Args:
        workdir: run directory, release, or name of a released model.
        checkpoint: ``"best"``, ``"last"``, or a step number.
        data_dir: folder of the data, or ``None`` for the one in the run's config.
        mirror: whether to average the logits of each image and its mirror image.

    Raises:
        UserError: missing run or checkpoint, unreadable data, or ``mirror`` for a run without flips.
    """
    from jaxresnet.core.evaluation import evaluate
    from jaxresnet.core.programs import eval_batch_size, jit_steps, put_on_devices
    from jaxresnet.core.state import create_transform
    from jaxresnet.inference import restore_run
    from jaxresnet.system.terminal import image_bar
    from jaxresnet.workdir.folder import load_data

    folder = released.resolve(workdir)
    config, step, state, mesh = restore_run(folder, checkpoint)
    if mirror and not config.augment.flip:
        raise UserError("--mirror: this run was trained without mirror images (augment.flip=False); leave out --mirror")
    test = load_data(config, folder, data_dir).test
    steps = jit_steps(create_transform(config), mesh, mirror=mirror)
    # Both views are computed at once, so they take the memory of twice as many images.
    batch_size = max(eval_batch_size(config.eval_batch_size) // (1 + mirror), 1)
    with image_bar(len(test)) as bar:
        data = put_on_devices(test.images, test.labels, mesh)
        scores = evaluate(steps, state, data, len(test), batch_size, bar.update)
    return Evaluation(step, scores)


def print_scores(arguments: argparse.Namespace) -> None:
    """Score the checkpoint that the flags name, and print the scores."""
    from jaxresnet.calibration import draw_reliability, negative_log_likelihood, reliability
    from jaxresnet.system.devices import set_up_jax
    from jaxresnet.workdir.folder import read_class_names, read_temperature

    set_up_jax()
    out = arguments.reliability and output_file("--reliability", arguments.reliability, arguments.force, PICTURES)
    evaluation = evaluate_run(arguments.workdir, arguments.checkpoint, arguments.data_dir, arguments.mirror)
    scores, temperature = evaluation.scores, read_temperature(arguments.workdir)
    sums, means = scores.sums, scores.sums.means("test")
    view = ", mean of the logits of each image and its mirror image" if arguments.mirror else ""
    print(
        f"{arguments.checkpoint} checkpoint, step {evaluation.step:,}: test accuracy {means['test_accuracy']:.2f}%, "
        f"test loss {means['test_loss']:.4f}{view}, {sums.count:,} images"
    )
    names = read_class_names(arguments.workdir, load_config(arguments.workdir))
    rows = zip(names, scores.confusion.tolist(), strict=True)
    shares = [f"{name} {100 * row[i] / sum(row):.1f}%" for i, (name, row) in enumerate(rows) if sum(row)]
    print(textwrap.fill(", ".join(shares), 100))
    bins = reliability(scores.logits, scores.labels, temperature)
    likelihood = negative_log_likelihood(scores.logits, scores.labels, temperature)
    print(
        f"mean confidence {100 * bins.mean_confidence:.1f}%, ECE {100 * bins.error:.2f}%, negative log-likelihood "
        f"{likelihood:.4f}, at temperature {temperature:.3f}"
    )
    if out:
        with default_style():
            write_figure(out, draw_reliability(bins, f"{means['test_accuracy']:.2f}% accuracy"))
        print(out)


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = cli.Parser("evaluate", __doc__)
    parser.add_run()
    mirror = "score the mean of the logits of each image and its mirror image"
    parser.add_argument("--mirror", action="store_true", help=mirror)
    parser.add_argument("--reliability", help="picture of accuracy over confidence")
    parser.add_argument("--force", action="store_true", help="overwrite the file that --reliability names")
    parser.add_argument("--data_dir", help="folder of the data, if they have moved since training")
    cli.run(print_scores, parser, argv)


if __name__ == "__main__":
    main()
