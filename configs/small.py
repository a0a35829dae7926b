"""Every arm of every table at a size that a core trains in minutes.

    python -m jaxresnet.main --config=configs/small.py:scheduler/linear --workdir=runs/small/scheduler/linear/seed0
    python -m jaxresnet.sweep --config=configs/small.py --seeds=3 --workdir=runs/small

The size is the same for all arms. A stage has a quarter of the arm's channels, and a quarter of its blocks, rounded
down, but at least one. All lengths in epochs are a tenth, 20 for 200. Training uses a tenth of the training images, and
the other 45,000 are the validation split. So a run has a hundredth of the steps, in which most arms do not fit their
images. The learning rate changes every step, because 20 values are coarser than the paper's 200.

Paper: no such experiment. Measured here: results/report/README.md.
"""

from configs import (
    architecture,
    augmentation,
    batch_size,
    dropout,
    epochs,
    headline,
    optimizer,
    pooling,
    scheduler,
)

TABLES = (headline, scheduler, augmentation, optimizer, epochs, pooling, dropout, architecture, batch_size)
# Arms that equal the baseline share its name, and so its runs.
ARMS = {table.get_config(arm).name: (table, arm) for table in TABLES for arm in table.ARMS}

SMALLER = 4  # divisor of channels and blocks
SHORTER = 10  # divisor of lengths in epochs
TRAINING_IMAGES = 5_000


def shrink(config):
    """Make a config small, in place."""
    config.num_epochs //= SHORTER
    config.schedule.warmup_epochs /= SHORTER
    if config.schedule.total_epochs is not None:
        config.schedule.total_epochs /= SHORTER
    config.schedule.step_per = "step"
    config.dataset.validation_size = 50_000 - TRAINING_IMAGES
    config.eval_every_epochs = 10
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
    if arm not in ARMS:
        raise ValueError(f"there is no arm {arm!r}; expected one of {', '.join(ARMS)}")
    table, name = ARMS[arm]
    config = table.get_config(name)
    shrink(config)
    return config
