"""Table 8, the channels of the stages: 64-128-256, 32-64-128-256, 16-32-64-128-256, 32-64-128.

    jaxresnet train --config=configs/architecture.py:32-64-128 --workdir=runs/architecture/32-64-128/seed0
    jaxresnet sweep --config=configs/architecture.py --seeds=3 --workdir=runs

Paper: 95.48, 94.87, 93.41 and 95.39% test accuracy, last of 200 epochs, one run each, V100. No script of the second
and the third survives. They are assumed to have a stem of C[0] channels and global pooling. The arms 64-128-256_global
and 32-64-128_stem_32 give the two others the same pooling and stem.
Measured here: small, by configs/small.py; not yet at full length.
"""

from configs.tables import BASELINE, Arm, Claim, getter, over

TITLE = "Table 8: architecture"
SMALL = "A quarter of the blocks is one block a stage, so the small networks differ in other ways than the paper's."
ARMS = {
    "64-128-256": BASELINE,
    "32-64-128-256": Arm(
        {"model.channels": (32, 64, 128, 256), "model.blocks": (4, 4, 3, 3), "model.pooling": "global"},
        94.87,
        words="four stages of 4, 4, 3 and 3 blocks",
    ),
    "16-32-64-128-256": Arm(
        {"model.channels": (16, 32, 64, 128, 256), "model.blocks": (4, 4, 4, 4, 3), "model.pooling": "global"},
        93.41,
        words="five stages of 4, 4, 4, 4 and 3 blocks",
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
        "three stages of 13 blocks, stem of 16 channels",
    ),
    "64-128-256_global": Arm(
        {"model.pooling": "global"}, words="the baseline with global pooling", shares_runs_with="pooling/adaptive"
    ),
    "32-64-128_stem_32": Arm(
        {"model.channels": (32, 64, 128), "model.blocks": (13, 13, 13), "model.pooling": "global"},
        words="three stages of 13 blocks, stem of 32 channels",
    ),
}
CLAIMS = (
    Claim(
        "The network with 13 blocks a stage is the best of the others, but not better than the baseline",
        (("64-128-256", "32-64-128"), ("32-64-128", "32-64-128-256"), ("32-64-128", "16-32-64-128-256")),
        quote="the model with 13-block layers performed best on the validation set but did not improve over the "
        "baseline",
        not_testable=SMALL,
    ),
    Claim(
        "With the same pooling and stem, three stages of 64, 128 and 256 channels score highest",
        over("64-128-256_global", "32-64-128-256", "16-32-64-128-256", "32-64-128_stem_32"),
        not_testable=SMALL,
    ),
    Claim(
        "A stem as wide as the first stage scores higher than one of half its width",
        (("32-64-128_stem_32", "32-64-128"),),
        not_testable=SMALL,
    ),
)
NOTE = """
The rows differ in more than channels and blocks. `32-64-128-256` and `16-32-64-128-256` also have global pooling, and
`32-64-128` has global pooling and a stem of 16 channels, which gives its first block a projection that the others
lack. No script of the second and third row survives, so their stem and pooling are assumptions.
"""

get_config = getter("architecture", ARMS)
