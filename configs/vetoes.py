"""Pilots at half width, each of which may strike a part of the next recipe after `configs/long.py`.

    jaxresnet sweep --config=configs/vetoes.py --workdir=runs/vetoes --jobs=2

The plan was written before the first run. `configs/long.py` and `configs/further.py` did not wait for the seven arms,
which take 8.2 PFLOP, and have their parts from published figures.

Each arm trains 30 epochs on 45,000 images and is scored on the other 5,000; the test set is not read. An arm has one
seed, and 93% of 5,000 images have a standard error of 0.36 points. So arms are not ranked:

- Cutout and alternating flips each leave the recipe if the mean of their two arms is more than 1 point below that of
  the two arms without.
- The averages leave it if they score lower than the variables behind them in all four of these arms.
- The best of SGD's three rates is compared with Muon in the arm without cutout and with random flips.
  docs/recipe.md will say the difference.

Paper: no such experiment. Measured here: nothing yet.
"""

from configs import long
from configs.tables import choose

_PLAIN = {"augment.cutout_size": 0, "augment.alternating_flip": False}
_SGD = _PLAIN | {"optimizer.name": "sgd", "optimizer.momentum": 0.9}
ARMS = {
    "cutout_alternating": {},
    "cutout_random": {"augment.alternating_flip": False},
    "whole_alternating": {"augment.cutout_size": 0},
    "whole_random": _PLAIN,
    **{f"sgd_{rate}": _SGD | {"schedule.learning_rate": rate} for rate in (0.2, 0.8, 1.6)},
}


def get_config(arm: str = "cutout_alternating"):
    """Return the config of an arm.

    Raises:
        ValueError: there is no such arm.
    """
    changes = choose(ARMS, arm)
    config = long.get_config()
    config.name = f"vetoes/{arm}"
    config.num_epochs = 30
    config.dataset.validation_size = 5_000
    config.model.channels = (32, 64, 128)
    config.augment.cutout_size = 8
    config.augment.small_images = ((16, 0.2), (24, 0.5))
    config.schedule.decay_epochs = 21.0  # 70% of the run, as in the long one
    config.checkpoint.update(every_steps=0, keep=2)
    config.paper.curve = None
    config.update_from_flattened_dict(changes)
    return config
