"""Table 5, the number of epochs: 200, 100, 300, 400.

    python -m jaxresnet.main --config=configs/epochs.py:300 --workdir=runs/epochs/300/seed0
    python -m jaxresnet.sweep --config=configs/epochs.py --seeds=3 --workdir=runs

Paper: 95.48, 85.45, 95.32 and 95.31% test accuracy, one run each, V100. The cosine was 200 epochs long in every arm.
At epoch 100 the learning rate is still 0.05. Past epoch 200 it rises again, to 0.1 at epoch 400. In the arms that end
in _fixed, the cosine is as long as the run.
Measured here: small, by configs/small.py; not yet at full length.
"""

from configs import arms
from configs.arms import BASELINE, Arm

TITLE = "Table 5: epochs"

T_MAX_200 = {"schedule.total_epochs": 200.0}

ARMS = {
    "200": BASELINE,
    "100": Arm({"num_epochs": 100} | T_MAX_200, 85.45, "epochs/100_second_log"),
    "300": Arm({"num_epochs": 300} | T_MAX_200, 95.32),
    "400": Arm({"num_epochs": 400} | T_MAX_200, 95.31),
    "100_fixed": Arm({"num_epochs": 100}),
    "300_fixed": Arm({"num_epochs": 300}),
    "400_fixed": Arm({"num_epochs": 400}),
}


def get_config(arm: str = "200"):
    """Return the config of an arm."""
    return arms.choose("epochs", ARMS, arm)
