"""Batch sizes in the paper's text: 16, 32, 64, 128, 256, 512, all at a learning rate of 0.1.

    python -m jaxresnet.main --config=configs/batch_size.py:512 --workdir=runs/batch_size/512/seed0
    python -m jaxresnet.sweep --config=configs/batch_size.py --seeds=3 --workdir=runs

Paper: 94.34, 94.65, 95.40, 95.48, 95.32 and 95.37% test accuracy, last of 200 epochs, one run each, V100.
In the arms that end in _scaled, the learning rate is proportional to the batch size (Goyal et al., 2017).
Measured here: small, by configs/small.py; not yet at full length.
"""

from configs import arms
from configs.arms import BASELINE, Arm

TITLE = "Text: batch size"
ARMS = {
    "16": Arm({"batch_size": 16}, 94.34, "batch/16"),
    "32": Arm({"batch_size": 32}, 94.65, "batch/32"),
    "64": Arm({"batch_size": 64}, 95.40, "batch/64"),
    "128": BASELINE,
    "256": Arm({"batch_size": 256}, 95.32, "batch/256"),
    "512": Arm({"batch_size": 512}, 95.37, "batch/512"),
    "16_scaled": Arm({"batch_size": 16, "schedule.learning_rate": 0.0125}),
    "32_scaled": Arm({"batch_size": 32, "schedule.learning_rate": 0.025}),
    "64_scaled": Arm({"batch_size": 64, "schedule.learning_rate": 0.05}),
    "256_scaled": Arm({"batch_size": 256, "schedule.learning_rate": 0.2}),
    "512_scaled": Arm({"batch_size": 512, "schedule.learning_rate": 0.4}),
}


def get_config(arm: str = "128"):
    """Return the config of an arm."""
    return arms.choose("batch_size", ARMS, arm)
