"""Table 1, the models: baseline, final model, and the ResNet-18 of the paper's comparison.

    python -m jaxresnet.main --config=configs/headline.py:final --workdir=runs/final/seed0
    python -m jaxresnet.sweep --config=configs/headline.py --seeds=3 --workdir=runs

Paper: 95.48% (last epoch), 96.10% (best epoch, chosen on the test set; last 96.01%) and 93.02% (cited from Liu, 2020)
test accuracy; 200 epochs, one run each, V100.
The other arms leave one part of the final recipe out. A log of final_normalised survives, which ends at 95.74%.
Measured here: small, by configs/small.py; not yet at full length.
"""

from configs import baseline, default, final, resnet18

TITLE = "Table 1: models"


def _final_without(name: str, *fields: str, curve: str | None = None):
    """Return a function that makes the final config with the baseline's values of ``fields``."""

    def get_config():
        config, original = final.get_config(), default.get_config()
        config.name = f"headline/{name}"
        for field in fields:
            section, key = field.split(".")
            config[section][key] = original[section][key]
        config.paper.update({"accuracy": None, "epoch": "last", "curve": curve})
        return config

    return get_config


ARMS = {
    "baseline": baseline.get_config,
    "final": final.get_config,
    "resnet18": resnet18.get_config,
    "final_normalised": _final_without("final_normalised", "augment.mean", "augment.std", curve="final_try4"),
    "final_no_dropout": _final_without("final_no_dropout", "model.dropout_rate"),
    "final_5x5": _final_without("final_5x5", "model.pooling"),
}


def get_config(arm: str = "baseline"):
    """Return the config of an arm.

    Raises:
        ValueError: there is no such arm. The message lists all arms.
    """
    if arm not in ARMS:
        raise ValueError(f"there is no arm {arm!r}; expected one of {', '.join(ARMS)}")
    return ARMS[arm]()
