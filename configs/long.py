"""The paper's network with a recipe for the accuracy of its 200 epochs in a third of their compute.

    jaxresnet train --config=configs/long.py --workdir=runs/long
    jaxresnet train --config=configs/long.py:40 --workdir=runs/long40 --config.branch_from=runs/long

The number after the colon is the number of epochs: 100, or 40 or 60 for a run that goes on from the one of 100 epochs
after epoch 30. The learning rate rises over 5 epochs, stays until epoch 30, and falls linearly to 0. Images have 16x16
pixels in the first 20 epochs and 24x24 until epoch 50, or 30 in the shorter runs. Each has a square of 12 pixels hidden
and is mirrored in every other epoch. The averages of weights and statistics are scored and released, and what is
averaged is scored beside them. The runs of 40, 60 and 100 epochs take 4.9, 9.7 and 17.2 PFLOP, in float32, whose speed
does not depend on AMX.

The plan was written before the first run: seed 0, all 50,000 images, every run is reported, and the longest one that
ends is released. No run is chosen or stopped by its test accuracy. In that plan the rate fell over the last quarter of
each run. It was changed after the run of 40 epochs, which is the same in both plans, and before the other two:
docs/recipe.md says why.

Paper: no such experiment. Measured here: 91.00% test accuracy at the last of 40 epochs, 93.94% without the averages.
The run of 100 epochs was lost with its machine at epoch 62, and the run of 60 epochs was not begun. Of the runs that
ended, that of 40 is the longest, but it is not released, because the model of `configs/fast.py:40` is better.
"""

from configs import fast

EPOCHS = (40, 60, 100)
DECAY_BEGINS = 30  # epoch from which the rate falls


def get_config(epochs: str = "100"):
    """Return the config for a number of epochs.

    Raises:
        ValueError: ``epochs`` is none of ``EPOCHS``.
    """
    if epochs not in map(str, EPOCHS):
        raise ValueError(f"{epochs!r}: expected one of {', '.join(map(str, EPOCHS))}")
    config = fast.get_config(epochs)
    config.name = "long"
    config.dtype = "float32"
    config.ema_decay = 0.996  # over 250 steps, 4% of the decay of 100 epochs
    config.augment.cutout_size = 12
    config.augment.alternating_flip = True
    config.augment.small_images = ((16, 20 / config.num_epochs), (24, max(DECAY_BEGINS / config.num_epochs, 0.5)))
    config.schedule.name = "constant"
    config.schedule.warmup_epochs = 5.0
    config.schedule.decay_epochs = float(config.num_epochs - DECAY_BEGINS)
    config.checkpoint.every_steps = 98 * DECAY_BEGINS  # 98 an epoch: a checkpoint where the decay begins
    config.checkpoint.every_minutes = 30.0
    config.checkpoint.keep = 100
    return config
