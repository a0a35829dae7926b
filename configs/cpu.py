"""Real CIFAR-10 on a laptop: a small network that trains in minutes on 2 CPU cores.

    jaxresnet train --config=configs/cpu.py --workdir=runs/cpu

Paper: no such experiment. Measured here: 74.28% test accuracy at the last epoch, also the best; 11m09s on 2 cores of an
AMD EPYC; jax 0.10.2, seed 0, one run (`results/runs/cpu`).
"""

from configs import default


def get_config():
    """Return the config."""
    config = default.get_config()
    config.name = "cpu"
    config.num_epochs = 6
    config.model.channels = (16, 32, 64)
    config.model.blocks = (1, 1, 1)
    config.model.pooling = "global"
    config.schedule.step_per = "step"
    return config
