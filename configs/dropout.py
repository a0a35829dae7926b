"""Table 7, the dropout rate before the linear layer: 0.0, 0.2, 0.3, 0.4, 0.5.

    python -m jaxresnet.main --config=configs/dropout.py:0.4 --workdir=runs/dropout/0.4/seed0
    python -m jaxresnet.sweep --config=configs/dropout.py --seeds=3 --workdir=runs

Paper: 95.48, 95.37, 95.29, 95.49 and 95.43% test accuracy, last of 200 epochs, one run each, V100.
Measured here: small, by configs/small.py; not yet at full length.
"""

from configs import arms
from configs.arms import BASELINE, Arm

TITLE = "Table 7: dropout"
ARMS = {
    "0.0": BASELINE,
    "0.2": Arm({"model.dropout_rate": 0.2}, 95.37, "dropout/0.2"),
    "0.3": Arm({"model.dropout_rate": 0.3}, 95.29, "dropout/0.3"),
    "0.4": Arm({"model.dropout_rate": 0.4}, 95.49, "dropout/0.4"),
    "0.5": Arm({"model.dropout_rate": 0.5}, 95.43, "dropout/0.5"),
}


def get_config(arm: str = "0.0"):
    """Return the config of an arm."""
    return arms.choose("dropout", ARMS, arm)
