"""Table 4, the optimizer: sgd, adam, rmsprop, adamw, adagrad, adadelta.

    python -m jaxresnet.main --config=configs/optimizer.py:adam --workdir=runs/optimizer/adam/seed0
    python -m jaxresnet.sweep --config=configs/optimizer.py --seeds=3 --workdir=runs

Paper: 95.48, 68.55, 74.85, 93.06, 89.88 and 94.3% test accuracy, last of 200 epochs, one run each, V100. All ran at
SGD's learning rate of 0.1, a hundred times Adam's usual one. The arms that end in _fixed have their optimizer's usual
learning rate. Those that end in _warmup also have five epochs of warm-up. The paper names three remedies: a warm-up,
which the arms from adam_warmup to adagrad_warmup try at its own rate, RAdam, which radam tries there, and more epochs
for RMSprop, which rmsprop_longer tries.
Measured here: small, by configs/small.py; not yet at full length.
"""

from configs import arms
from configs.arms import BASELINE, Arm

TITLE = "Table 4: optimizer"

WARMUP = {"schedule.warmup_epochs": 5.0}
ADAM = {"optimizer.name": "adam", "schedule.learning_rate": 1e-3}
# The rate is a tenth of Adam's, because a momentum of 0.9 makes each step ten times as long.
RMSPROP = {"optimizer.name": "rmsprop", "schedule.learning_rate": 1e-4}
# AdamW multiplies the decay by the learning rate. A decay of 0.05 keeps the product at SGD's 0.1 * 5e-4.
ADAMW = {"optimizer.name": "adamw", "schedule.learning_rate": 1e-3, "optimizer.weight_decay": 0.05}
ADAGRAD = {"optimizer.name": "adagrad", "schedule.learning_rate": 1e-2}
RADAM = {"optimizer.name": "radam", "schedule.learning_rate": 1e-3}

ARMS = {
    "sgd": BASELINE,
    "adam": Arm({"optimizer.name": "adam"}, 68.55),
    "rmsprop": Arm({"optimizer.name": "rmsprop"}, 74.85),
    "adamw": Arm({"optimizer.name": "adamw"}, 93.06),
    "adagrad": Arm({"optimizer.name": "adagrad"}, 89.88),
    "adadelta": Arm({"optimizer.name": "adadelta"}, 94.3),
    "adam_warmup": Arm({"optimizer.name": "adam"} | WARMUP),
    "rmsprop_warmup": Arm({"optimizer.name": "rmsprop"} | WARMUP),
    "adamw_warmup": Arm({"optimizer.name": "adamw"} | WARMUP),
    "adagrad_warmup": Arm({"optimizer.name": "adagrad"} | WARMUP),
    "radam": Arm({"optimizer.name": "radam"}),
    "rmsprop_longer": Arm({"optimizer.name": "rmsprop", "num_epochs": 400}),
    "adam_fixed": Arm(ADAM),
    "adam_fixed_warmup": Arm(ADAM | WARMUP),
    "rmsprop_fixed": Arm(RMSPROP),
    "rmsprop_fixed_warmup": Arm(RMSPROP | WARMUP),
    "adamw_fixed": Arm(ADAMW),
    "adamw_fixed_warmup": Arm(ADAMW | WARMUP),
    "adagrad_fixed": Arm(ADAGRAD),
    "adagrad_fixed_warmup": Arm(ADAGRAD | WARMUP),
    "adadelta_fixed": Arm({"optimizer.name": "adadelta", "schedule.learning_rate": 1.0}),
    "radam_fixed": Arm(RADAM),
}


def get_config(arm: str = "sgd"):
    """Return the config of an arm."""
    return arms.choose("optimizer", ARMS, arm)
