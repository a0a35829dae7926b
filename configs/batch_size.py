"""Batch sizes in the paper's text: 16, 32, 64, 128, 256, 512, all at a learning rate of 0.1.

    jaxresnet train --config=configs/batch_size.py:512 --workdir=runs/batch_size/512/seed0
    jaxresnet sweep --config=configs/batch_size.py --seeds=3 --workdir=runs

Paper: 94.34, 94.65, 95.40, 95.48, 95.32 and 95.37% test accuracy, last of 200 epochs, one run each, V100.
In the arms that end in _scaled, the learning rate is proportional to the batch size (Goyal et al., 2017).
Measured here: small, by configs/small.py; not yet at full length.
"""

from configs.tables import BASELINE, Arm, Claim, getter, over, twins

TITLE = "Text: batch size"
ARMS = {
    "16": Arm({"batch_size": 16}, 94.34, "batch/16", "16 images a step"),
    "32": Arm({"batch_size": 32}, 94.65, "batch/32", "32 images a step"),
    "64": Arm({"batch_size": 64}, 95.40, "batch/64", "64 images a step"),
    "128": BASELINE,
    "256": Arm({"batch_size": 256}, 95.32, "batch/256", "256 images a step"),
    "512": Arm({"batch_size": 512}, 95.37, "batch/512", "512 images a step"),
    "16_scaled": Arm({"batch_size": 16, "schedule.learning_rate": 0.0125}, words="16 images a step, rate 0.0125"),
    "32_scaled": Arm({"batch_size": 32, "schedule.learning_rate": 0.025}, words="32 images a step, rate 0.025"),
    "64_scaled": Arm({"batch_size": 64, "schedule.learning_rate": 0.05}, words="64 images a step, rate 0.05"),
    "256_scaled": Arm({"batch_size": 256, "schedule.learning_rate": 0.2}, words="256 images a step, rate 0.2"),
    "512_scaled": Arm({"batch_size": 512, "schedule.learning_rate": 0.4}, words="512 images a step, rate 0.4"),
}
CLAIMS = (
    Claim(
        "The batch size makes no difference",
        over("128", "16", "32", "64", "256", "512"),
        quote="Different training batch sizes did not significantly impact our test accuracy",
        equal=True,
    ),
    Claim(
        "A batch of 128 scores higher than the others",
        over("128", "16", "32", "64", "256", "512"),
        quote="the best-performing instance was the set initial size of 128",
    ),
    Claim(
        "A learning rate in proportion to the batch size scores higher than 0.1",
        twins("_scaled", "16", "32", "64", "256", "512"),
    ),
    Claim(
        "At such rates, the batch size makes no difference",
        over("128", "16_scaled", "32_scaled", "64_scaled", "256_scaled", "512_scaled"),
        equal=True,
    ),
)
NOTE = """
All of the paper's runs have a learning rate of 0.1, so a smaller batch also means more noise per step, and the rows
compare recipes rather than batch sizes alone. Its logs survive; from 64 to 512 images, their last epochs lie within
0.16 points.
"""

get_config = getter("batch_size", ARMS)
