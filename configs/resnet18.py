"""ResNet-18 for CIFAR-10, 11,173,962 parameters. The paper compares its models with it.

    jaxresnet train --config=configs/resnet18.py --workdir=runs/resnet18

Paper: 93.02% test accuracy, cited from Liu (2020), not run by the authors (Table 1).
Measured here: small, by configs/small.py; not yet at full length.
"""

from configs import default


def get_config():
    """Return the config."""
    config = default.get_config()
    config.name = "resnet18"
    config.model.channels = (64, 128, 256, 512)
    config.model.blocks = (2, 2, 2, 2)
    config.model.pooling = "4"
    config.paper.accuracy = 93.02
    config.paper.epoch = "cited"
    return config
