"""Table 8, the channels of the stages: 64-128-256, 32-64-128-256, 16-32-64-128-256, 32-64-128.

    python -m jaxresnet.main --config=configs/architecture.py:32-64-128 --workdir=runs/architecture/32-64-128/seed0
    python -m jaxresnet.sweep --config=configs/architecture.py --seeds=3 --workdir=runs

Paper: 95.48, 94.87, 93.41 and 95.39% test accuracy, last of 200 epochs, one run each, V100. No script of the second
and the third survives. They are assumed to have a stem of C[0] channels and global pooling. The arms 64-128-256_global
and 32-64-128_stem_32 give the two others the same pooling and stem.
Measured here: small, by configs/small.py; not yet at full length.
"""

from configs import arms
from configs.arms import BASELINE, Arm

TITLE = "Table 8: architecture"
ARMS = {
    "64-128-256": BASELINE,
    "32-64-128-256": Arm(
        {"model.channels": (32, 64, 128, 256), "model.blocks": (4, 4, 3, 3), "model.pooling": "global"}, 94.87
    ),
    "16-32-64-128-256": Arm(
        {"model.channels": (16, 32, 64, 128, 256), "model.blocks": (4, 4, 4, 4, 3), "model.pooling": "global"}, 93.41
    ),
    # The stem has 16 channels, so the first block has a projection.
    "32-64-128": Arm(
        {
            "model.channels": (32, 64, 128),
            "model.blocks": (13, 13, 13),
            "model.stem_channels": 16,
            "model.pooling": "global",
        },
        95.39,
        "architecture/32-64-128_13-13-13",
    ),
    "64-128-256_global": Arm({"model.pooling": "global"}, shares_runs_with="pooling/adaptive"),
    "32-64-128_stem_32": Arm(
        {"model.channels": (32, 64, 128), "model.blocks": (13, 13, 13), "model.pooling": "global"}
    ),
}


def get_config(arm: str = "64-128-256"):
    """Return the config of an arm."""
    return arms.choose("architecture", ARMS, arm)
