"""The paper's baseline: ResNet [64, 128, 256] x (4, 4, 3), 4,697,162 parameters, 5x5 corner pooling.

    jaxresnet train --config=configs/baseline.py --workdir=runs/baseline

Paper: 95.48% test accuracy, last of 200 epochs, one run, V100 (Tables 1 to 8). Measured here: small,
by configs/small.py; not yet at full length.
"""

from configs import default


def get_config():
    """Return the config."""
    config = default.get_config()
    config.name = "baseline"
    config.paper.accuracy = 95.48
    config.paper.curve = "baseline"
    return config
