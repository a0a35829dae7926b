"""Table 3, augmentation: random crop, random flip and normalisation, alone and together.

    jaxresnet train --config=configs/augmentation.py:flip_norm --workdir=runs/augmentation/flip_norm/seed0
    jaxresnet sweep --config=configs/augmentation.py --seeds=3 --workdir=runs

Paper: from 89.15% (norm_0.5) to 95.55% (crop_flip) test accuracy, last of 200 epochs, one run each, V100. The arms
that normalise have another standard deviation than the baseline, as in the authors' scripts.
Measured here: small, by configs/small.py; not yet at full length.
"""

from configs.tables import BASELINE, Arm, Claim, getter, over

TITLE = "Table 3: augmentation"

NO_CROP = {"augment.crop_padding": 0}
NO_FLIP = {"augment.flip": False}
NO_NORM = {"augment.mean": (0.0, 0.0, 0.0), "augment.std": (1.0, 1.0, 1.0)}
NORM_049 = {"augment.std": (0.247, 0.243, 0.261)}  # with the baseline's mean
NORM_05 = {"augment.mean": (0.5, 0.5, 0.5), "augment.std": (0.5, 0.5, 0.5)}

ARMS = {
    "baseline": BASELINE,
    "none": Arm(NO_CROP | NO_FLIP | NO_NORM, 90.71, "augmentation/none", "images as they are"),
    "crop": Arm(NO_FLIP | NO_NORM, 94.02, "augmentation/crop", "random crops alone"),
    "flip": Arm(NO_CROP | NO_NORM, 93.39, "augmentation/flip", "random flips alone"),
    "norm_0.49": Arm(
        NO_CROP | NO_FLIP | NORM_049, 89.36, "augmentation/norm_0.49", "normalised by the data's mean, about 0.49"
    ),
    "norm_0.5": Arm(NO_CROP | NO_FLIP | NORM_05, 89.15, "augmentation/norm_0.5", "normalised to -1 to 1"),
    "crop_flip": Arm(NO_NORM, 95.55, "augmentation/crop_flip", "random crops and flips"),
    "crop_norm": Arm(NO_FLIP | NORM_049, 94.07, "augmentation/crop_norm", "random crops, normalised"),
    "flip_norm": Arm(NO_CROP | NORM_049, 93.51, "augmentation/flip_norm", "random flips, normalised"),
    "all": Arm(NORM_049, 95.3, "augmentation/all", "random crops and flips, normalised"),
}
CLAIMS = (
    Claim(
        "Crops and flips raise the accuracy",
        (("crop", "none"), ("flip", "none"), ("crop_flip", "none")),
        quote="introducing the subtle noise and randomness has improved our validation accuracy by 3-5%",
    ),
    Claim(
        "Crops and flips together score higher than either alone",
        over("crop_flip", "crop", "flip"),
        quote='the best data augmentation technique was the "crop-and-flip" method for testing accuracy',
    ),
    Claim(
        "Beside crops or flips, normalisation makes no difference",
        (("all", "crop_flip"), ("crop_norm", "crop"), ("flip_norm", "flip")),
        quote="normalization does not positively affect the test accuracy for this dataset",
        equal=True,
    ),
    Claim(
        "Normalisation alone scores lower than no augmentation",
        over("none", "norm_0.49", "norm_0.5"),
        quote="None 90.71; Normalization(0.49) 89.36; Normalization(0.5) 89.15",
    ),
)
NOTE = """
`all` and `baseline` differ in `augment.std` alone: the arms that normalise divide by (0.247, 0.243, 0.261), and the
baseline by (0.2023, 0.1994, 0.201), so that their images are 0.77 to 0.82 times the baseline's. BatchNorm follows the
first convolution and removes most of such a factor, so 95.48 and 95.30 may differ by the spread between runs.

Every log of this table ends at a training accuracy of 100.00%. The best epochs of `norm_0.49`, `norm_0.5` and `none`
are 91.05, 90.65 and 91.03. From there, the normalised runs lose 1.69 and 1.50 points by the end, and `none` loses
0.31, so the gap that the paper prints is late overfitting. "Color augmentation" is normalisation: no script changes
colours.
"""

get_config = getter("augmentation", ARMS)
