"""Table 2, the learning-rate schedule: cosine, linear, polynomial, one_cycle.

    python -m jaxresnet.main --config=configs/scheduler.py:linear --workdir=runs/scheduler/linear/seed0
    python -m jaxresnet.sweep --config=configs/scheduler.py --seeds=3 --workdir=runs

Paper: 95.48, 91.048, 78.413 and 91.29% test accuracy, last of 200 epochs, one run each, V100. Except for cosine, the
paper's settings do not give the schedule that the name promises. The arms linear, polynomial and one_cycle have those
settings. The arms that end in _fixed, and warm_restarts, follow the named schedule over the whole run. The arm
one_cycle_stepped differs from one_cycle in nothing but when it steps.
Measured here: small, by configs/small.py; not yet at full length.
"""

from configs import arms
from configs.arms import BASELINE, Arm

TITLE = "Table 2: learning-rate schedule"
ARMS = {
    "cosine": BASELINE,
    # LinearLR's defaults: from 1/3 to 1 over the first 5 epochs, then constant.
    "linear": Arm(
        {
            "schedule.name": "linear",
            "schedule.start_factor": 1 / 3,
            "schedule.end_factor": 1.0,
            "schedule.total_epochs": 5.0,
        },
        paper=91.048,
    ),
    # PolynomialLR's defaults: to 0 within 5 epochs.
    "polynomial": Arm({"schedule.name": "polynomial", "schedule.total_epochs": 5.0}, paper=78.413),
    # OneCycleLR(max_lr=0.01, steps_per_epoch=128, epochs=200), so 25,600 steps, stepped once an epoch.
    "one_cycle": Arm(
        {"schedule.name": "one_cycle", "schedule.learning_rate": 0.01, "schedule.total_epochs": 128.0 * 200},
        paper=91.29,
        curve="scheduler/one_cycle",
    ),
    # The rate that the paper gave OneCycle, stepped once a batch, as OneCycle is meant to be.
    "one_cycle_stepped": Arm(
        {"schedule.name": "one_cycle", "schedule.learning_rate": 0.01, "schedule.step_per": "step"}
    ),
    "linear_fixed": Arm({"schedule.name": "linear"}),
    # At PyTorch's default power of 1 it would equal linear_fixed.
    "polynomial_fixed": Arm({"schedule.name": "polynomial", "schedule.power": 2.0}),
    "one_cycle_fixed": Arm({"schedule.name": "one_cycle", "schedule.step_per": "step"}),
    "warm_restarts": Arm({"schedule.name": "warm_restarts", "schedule.step_per": "step"}),
}


def get_config(arm: str = "cosine"):
    """Return the config of an arm."""
    return arms.choose("scheduler", ARMS, arm)
