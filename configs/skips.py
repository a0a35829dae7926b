"""Networks of 20 and 56 layers with and without skip connections: 20, 20_plain, 56, 56_plain.

    jaxresnet train --config=configs/skips.py:56_plain --workdir=runs/skips/56_plain/seed0
    jaxresnet sweep --config=configs/skips.py --workdir=runs

Paper: no such experiment. Its introduction says that skip connections cure vanishing gradients. The networks are those
of its source, He et al. (2015), except for the shortcuts: where the shape changes, these are the paper's projections.
A budget of minutes: 10,000 of the training images, 8 epochs. The other 40,000 are the validation split.
Measured here: `docs/skips.md`.
"""

from configs import default
from configs.tables import choose

ARMS = {
    "20": {"model.blocks": (3, 3, 3)},
    "20_plain": {"model.blocks": (3, 3, 3), "model.skips": False},
    "56": {"model.blocks": (9, 9, 9)},
    "56_plain": {"model.blocks": (9, 9, 9), "model.skips": False},
}


def get_config(arm: str = "56"):
    """Return the config of an arm.

    Raises:
        ValueError: there is no such arm. The message lists all arms.
    """
    config = default.get_config()
    config.name = f"skips/{arm}"
    config.num_epochs = 8
    config.eval_every_epochs = 8
    config.dataset.validation_size = 40_000
    config.model.channels = (16, 32, 64)
    config.model.pooling = "global"
    config.schedule.step_per = "step"
    config.log_every_steps = 0
    config.update_from_flattened_dict(choose(ARMS, arm))
    return config
