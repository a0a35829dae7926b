"""Table 6, the pooling before the linear layer: avg_5, avg_8, adaptive.

    jaxresnet train --config=configs/pooling.py:avg_8 --workdir=runs/pooling/avg_8/seed0
    jaxresnet sweep --config=configs/pooling.py --seeds=3 --workdir=runs

Paper: 95.48, 95.57 and 95.61% test accuracy, last of 200 epochs, one run each, V100. A window of 5 fits the 8x8 map
once, in its top left corner, and the rest is never read. A window of 8 is the whole map, so avg_8 and adaptive are
the same function.
Measured here: small, by configs/small.py; not yet at full length.
"""

from configs.tables import BASELINE, Arm, Claim, getter

TITLE = "Table 6: pooling"
ARMS = {
    "avg_5": BASELINE,
    "avg_8": Arm(
        {"model.pooling": "8"}, 95.57, "pooling/avg_8_stride1", "a window of 8x8, the same function as adaptive"
    ),
    "adaptive": Arm({"model.pooling": "global"}, 95.61, "pooling/adaptive", "the mean over the whole map"),
}
CLAIMS = (
    Claim(
        "Adaptive pooling scores higher than the baseline's 5x5 window",
        (("adaptive", "avg_5"),),
        quote="using this adaptive average pooling layer with an output size of (1,1) produced the best result",
    ),
)
NOTE = """
`avg_8` and `adaptive` are the same function: a window of 8 is the whole 8x8 map, and with the same parameters their
logits are equal to the last bit. So 95.57 and 95.61 are two draws of one experiment, and the small study trains it
once. The 5x5 window fits the map once, in its top left corner, so 39 of 64 positions are never read.
"""

get_config = getter("pooling", ARMS)
