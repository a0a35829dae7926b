"""Every arm of every table with fewer images and a smaller network, so that a core trains it in minutes.

    jaxresnet train --config=configs/small.py:scheduler/linear --workdir=runs/small/scheduler/linear/seed0
    jaxresnet sweep --config=configs/small.py --seeds=2 --workdir=runs/small --jobs=2

Training uses 2,560 images, and a stage has a quarter of the arm's channels and a quarter of its blocks, rounded down,
but at least one. Nothing else is scaled: epochs, schedules, batch sizes and learning rates are the paper's, because a
run with a hundredth of the paper's steps underfits, and there crops, dropout and pooling do something else than in the
paper. A run takes 9.3 minutes of a core, so that all take 11 hours of two. The other 47,440 training images are the
validation split. No epoch is chosen on it: the result is the last one.

The rule of the comparison was committed before the first run, and the claims when two of 138 runs had ended:

- Runs: every arm with seeds 0 and 1. No arm gets another seed after a look. (The rule had four more seeds of the
  baseline, until 39 runs of seed 0 had ended. But in this model the only run of a seed tells nothing of other arms.)
- Model: accuracy = arm + seed, least squares over all runs, because arms with the same seed share their first weights
  and their data order. An arm whose spread is beyond Cochran's test at 5% has a variance of its own (Welch).
- Within a table: simultaneous 95% intervals against the table's control (Dunnett).
- Claims: each names its pairs of arms beside the arms, in the table's config. P values of all different pairs on the
  page get Holm's correction. A pair is "supported" or "contradicted" if the corrected p is below 5%, by the sign of the
  difference, and otherwise "inconclusive". A claim that arms do not differ is contradicted by such a p, and supported
  if the 95% interval of this one difference (Student) lies within 1 point of zero.
- Not testable at this size: claims on depth, width or ResNet-18, because a quarter of the blocks is one block a stage.

Paper: no such experiment. Measured here: results/report/README.md.
"""

import importlib
import pathlib

from configs.tables import choose

# Every config file with a title is a table. In the order of their titles, the models of Table 1 come first.
_FILES = sorted(pathlib.Path(__file__).parent.glob("*.py"))
TABLES = sorted(
    (importlib.import_module(f"configs.{file.stem}") for file in _FILES if "\nTITLE = " in file.read_text("utf-8")),
    key=lambda table: str(table.TITLE),
)
# Arms that share runs, such as those that equal the baseline, share their name.
ARMS = {table.get_config(arm).name: (table, arm) for table in TABLES for arm in table.ARMS}
del ARMS["pooling/avg_8"]  # the same function as pooling/adaptive to the last bit

SMALLER = 4  # divisor of channels and blocks
TRAINING_IMAGES = 2_560  # a multiple of all batch sizes, so that no epoch ends with a small batch


def shrink(config):
    """Make a config small, in place."""
    config.dataset.validation_size = 50_000 - TRAINING_IMAGES
    config.eval_every_epochs = 50
    config.model.channels = tuple(channels // SMALLER for channels in config.model.channels)
    config.model.blocks = tuple(max(1, blocks // SMALLER) for blocks in config.model.blocks)
    if config.model.stem_channels is not None:
        config.model.stem_channels //= SMALLER
    config.log_every_steps = 0
    config.paper.accuracy = config.paper.curve = None


def get_config(arm: str = "baseline"):
    """Return the config of an arm.

    Raises:
        ValueError: there is no such arm. The message lists all arms.
    """
    table, name = choose(ARMS, arm)
    config = table.get_config(name)
    shrink(config)
    return config
