"""Table 7, the dropout rate before the linear layer: 0.0, 0.2, 0.3, 0.4, 0.5.

    jaxresnet train --config=configs/dropout.py:0.4 --workdir=runs/dropout/0.4/seed0
    jaxresnet sweep --config=configs/dropout.py --seeds=3 --workdir=runs

Paper: 95.48, 95.37, 95.29, 95.49 and 95.43% test accuracy, last of 200 epochs, one run each, V100.
Measured here: small, by configs/small.py; not yet at full length.
"""

from configs.tables import BASELINE, Arm, Claim, getter, over

TITLE = "Table 7: dropout"
ARMS = {
    "0.0": BASELINE,
    "0.2": Arm({"model.dropout_rate": 0.2}, 95.37, "dropout/0.2", "a fifth of the features dropped"),
    "0.3": Arm({"model.dropout_rate": 0.3}, 95.29, "dropout/0.3", "3 of 10 features dropped"),
    "0.4": Arm({"model.dropout_rate": 0.4}, 95.49, "dropout/0.4", "2 of 5 features dropped"),
    "0.5": Arm({"model.dropout_rate": 0.5}, 95.43, "dropout/0.5", "half of the features dropped"),
}
CLAIMS = (
    Claim(
        "A rate of 0.4 scores higher than the others",
        over("0.4", "0.0", "0.2", "0.3", "0.5"),
        quote="We found that the probability of 0.4 worked the best, so we used it in our final model.",
    ),
    Claim(
        "A rate of 0.4 and no dropout score the same",
        (("0.4", "0.0"),),
        quote="found the model performed insignificantly better using 0.4 as the parameter option",
        equal=True,
    ),
)
NOTE = """
The dropout stands between the baseline's 5x5 corner pooling and the linear layer; the global pooling of the final
model came later. All five rows lie within 0.20 points, one run each, and the last ten epochs of one run span up to
0.14.
"""

get_config = getter("dropout", ARMS)
