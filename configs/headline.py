"""Table 1, the models: baseline, final model, and the ResNet-18 of the paper's comparison.

    python -m jaxresnet.main --config=configs/headline.py:final --workdir=runs/final/seed0
    python -m jaxresnet.sweep --config=configs/headline.py --seeds=3 --workdir=runs

Paper: 95.48% (last epoch), 96.10% (best epoch, chosen on the test set; last 96.01%) and 93.02% (cited from Liu, 2020)
test accuracy; 200 epochs, one run each, V100.
Measured here: small, by configs/small.py; not yet at full length.
"""

from configs import baseline, final, resnet18

TITLE = "Table 1: models"
ARMS = {"baseline": baseline, "final": final, "resnet18": resnet18}


def get_config(arm: str = "baseline"):
    """Return the config of an arm.

    Raises:
        ValueError: there is no such arm. The message lists all arms.
    """
    if arm not in ARMS:
        raise ValueError(f"there is no arm {arm!r}; expected one of {', '.join(ARMS)}")
    return ARMS[arm].get_config()
