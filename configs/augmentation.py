"""Table 3, augmentation: random crop, random flip and normalisation, alone and together.

    python -m jaxresnet.main --config=configs/augmentation.py:flip_norm --workdir=runs/augmentation/flip_norm/seed0
    python -m jaxresnet.sweep --config=configs/augmentation.py --seeds=3 --workdir=runs

Paper: from 89.15% (norm_0.5) to 95.55% (crop_flip) test accuracy, last of 200 epochs, one run each, V100. The arms
that normalise have another standard deviation than the baseline, as in the authors' scripts.
Measured here: small, by configs/small.py; not yet at full length.
"""

from configs import arms
from configs.arms import BASELINE, Arm

TITLE = "Table 3: augmentation"

NO_CROP = {"augment.crop_padding": 0}
NO_FLIP = {"augment.flip": False}
NO_NORM = {"augment.mean": (0.0, 0.0, 0.0), "augment.std": (1.0, 1.0, 1.0)}
NORM_049 = {"augment.std": (0.247, 0.243, 0.261)}  # with the baseline's mean
NORM_05 = {"augment.mean": (0.5, 0.5, 0.5), "augment.std": (0.5, 0.5, 0.5)}

ARMS = {
    "baseline": BASELINE,
    "none": Arm(NO_CROP | NO_FLIP | NO_NORM, 90.71, "augmentation/none"),
    "crop": Arm(NO_FLIP | NO_NORM, 94.02, "augmentation/crop"),
    "flip": Arm(NO_CROP | NO_NORM, 93.39, "augmentation/flip"),
    "norm_0.49": Arm(NO_CROP | NO_FLIP | NORM_049, 89.36, "augmentation/norm_0.49"),
    "norm_0.5": Arm(NO_CROP | NO_FLIP | NORM_05, 89.15, "augmentation/norm_0.5"),
    "crop_flip": Arm(NO_NORM, 95.55, "augmentation/crop_flip"),
    "crop_norm": Arm(NO_FLIP | NORM_049, 94.07, "augmentation/crop_norm"),
    "flip_norm": Arm(NO_CROP | NORM_049, 93.51, "augmentation/flip_norm"),
    "all": Arm(NORM_049, 95.3, "augmentation/all"),
}


def get_config(arm: str = "baseline"):
    """Return the config of an arm."""
    return arms.choose("augmentation", ARMS, arm)
