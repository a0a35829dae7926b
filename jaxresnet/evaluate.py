"""Restores a run and scores it: ``python -m jaxresnet.evaluate --workdir=runs/final``."""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from jaxresnet import cli
from jaxresnet.datasets import class_names, load_dataset
from jaxresnet.environment import set_up_jax
from jaxresnet.errors import UserError, user_path
from jaxresnet.inference import restore_run
from jaxresnet.metrics import Sums, image_bar
from jaxresnet.steps import Steps, compile_steps, dispatch, eval_dispatches, put_on_devices, steps_per_dispatch
from jaxresnet.train_state import TrainState, create_transform


class Scores(NamedTuple):
    """What an evaluation finds.

    Attributes:
        sums: over the images.
        confusion: (classes, classes), how many images of each class, by row, were taken for each class, by column.
    """

    sums: Sums
    confusion: Int[np.ndarray, "classes classes"]


def evaluate(
    steps: Steps,
    state: TrainState,
    data: dict[str, jax.Array],
    size: int,
    batch_size: int,
    after_dispatch: Callable[[], Any] = lambda: None,
) -> Scores:
    """The scores of all ``size`` images of ``data``, each counted once, in batches of up to ``batch_size``."""
    sums, confusions = Sums(), []
    batch_size = min(batch_size, size)
    at_once = steps_per_dispatch(-(-size // batch_size))
    for indices, mask in eval_dispatches(size, batch_size, at_once):
        start = time.monotonic()
        metrics = jax.device_get(dispatch(steps.evaluate, state, data, indices, mask))
        sums.add(metrics, time.monotonic() - start)
        confusions.append(metrics["confusion"].sum(0))
        after_dispatch()
    return Scores(sums, np.sum(confusions, axis=0))


class Evaluation(NamedTuple):
    """The scores of a checkpoint on the test set.

    Attributes:
        step: training steps behind the checkpoint.
        scores: over all test images.
        class_names: one for each row of the confusion matrix.
    """

    step: int
    scores: Scores
    class_names: tuple[str, ...]


def evaluate_run(workdir: str, checkpoint: str, data_dir: str | None = None, mirror: bool = False) -> Evaluation:
    """Score a checkpoint on the whole test set, whatever split the run was evaluated on while it trained.

    Args:
        workdir: folder of a run or a release.
        checkpoint: ``"best"``, ``"last"``, or the number of a step.
        data_dir: read the data from here instead of where the run's config says; ``None`` for the latter.
        mirror: take the mean of the logits of each image and its mirror image.

    Raises:
        UserError: no such run or checkpoint, data that cannot be read, or ``mirror`` for a run without flips.
    """
    config, step, state, _, mesh = restore_run(user_path(workdir), checkpoint)
    if mirror and not config.augment.flip:
        raise UserError(
            "--mirror: this run was trained with augment.flip=False, so mirror images mean nothing to it; leave it out"
        )
    data_dir = config.dataset.data_dir if data_dir is None else data_dir
    test = load_dataset(config.dataset.name, data_dir, config.model.num_classes).test
    steps = compile_steps(create_transform(config), mesh, mirror=mirror)
    with image_bar(len(test)) as bar:
        show = functools.partial(bar.update, min(config.eval_batch_size, len(test)))
        scores = evaluate(steps, state, put_on_devices(test, mesh), len(test), config.eval_batch_size, show)
    return Evaluation(step, scores, class_names(config.dataset.name, config.model.num_classes))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m jaxresnet.evaluate", description="Restores a run and scores it.")
    parser.add_argument("--workdir", required=True, help="the folder of the run")
    parser.add_argument("--checkpoint", default="last", help=cli.CHECKPOINT_HELP)
    parser.add_argument(
        "--mirror", action="store_true", help="score the mean of the logits of each image and its mirror image"
    )
    parser.add_argument("--data_dir", help="where the data lie now, if elsewhere than when the run was trained")
    arguments = parser.parse_args(argv)
    with cli.command():
        set_up_jax()
        evaluation = evaluate_run(arguments.workdir, arguments.checkpoint, arguments.data_dir, arguments.mirror)
        sums = evaluation.scores.sums
        means = sums.means("test")
        view = ", mean of the logits of each image and its mirror image" if arguments.mirror else ""
        print(
            f"{arguments.checkpoint} checkpoint, step {evaluation.step:,}: "
            f"test accuracy {means['test_accuracy']:.2f}%, test loss {means['test_loss']:.4f}{view}, "
            f"{sums.count:,} images, {sums.count / sums.seconds:,.0f} images/s"
        )


if __name__ == "__main__":
    main()
