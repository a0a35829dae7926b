"""Claims about the arms of the paper's tables, as data. ``verdicts.py`` judges them from runs."""

from typing import NamedTuple


class Claim(NamedTuple):
    """A claim about arms of a table.

    Attributes:
        text: the claim in a sentence.
        table: name of the table's config file, without its ending.
        pairs: arms of which the first should score higher, or the same if ``equal``.
        equal: True if the claim is that the arms do not differ.
    """

    text: str
    table: str
    pairs: tuple[tuple[str, str], ...]
    equal: bool = False


def _over(best: str, *others: str) -> tuple[tuple[str, str], ...]:
    return tuple((best, other) for other in others)


def _over_own(suffix: str, *arms: str, of: str = "") -> tuple[tuple[str, str], ...]:
    return tuple((f"{arm}{suffix}", f"{arm}{of}") for arm in arms)


# What the paper says, or what its printed figures say.
CLAIMS = (
    Claim("The final recipe scores higher than the baseline", "headline", (("final", "baseline"),)),
    Claim("Both score higher than a ResNet-18", "headline", (("baseline", "resnet18"), ("final", "resnet18"))),
    Claim("Cosine decay is the best schedule", "scheduler", _over("cosine", "linear", "polynomial", "one_cycle")),
    Claim(
        "Crops and flips help, alone and together",
        "augmentation",
        (("crop", "none"), ("flip", "none"), ("crop_flip", "none"), ("crop_flip", "crop"), ("crop_flip", "flip")),
    ),
    Claim(
        "Normalisation alone scores lower than no augmentation", "augmentation", _over("none", "norm_0.49", "norm_0.5")
    ),
    Claim("SGD is the best optimizer", "optimizer", _over("sgd", "adam", "rmsprop", "adamw", "adagrad", "adadelta")),
    Claim(
        "RMSprop needs more epochs: with twice as many it scores higher, and higher than SGD",
        "optimizer",
        _over("rmsprop_longer", "rmsprop", "sgd"),
    ),
    Claim("100 epochs are too few", "epochs", (("200", "100"),)),
    Claim("300 and 400 epochs score as 200 do", "epochs", _over("200", "300", "400"), equal=True),
    Claim("The pooling changes little", "pooling", _over("avg_5", "avg_8", "adaptive"), equal=True),
    Claim("Dropout changes little", "dropout", _over("0.0", "0.2", "0.3", "0.4", "0.5"), equal=True),
    Claim(
        "Three stages of 64, 128 and 256 channels are the best architecture",
        "architecture",
        _over("64-128-256", "32-64-128-256", "16-32-64-128-256", "32-64-128"),
    ),
    Claim("A batch of 128 images is the best", "batch_size", _over("128", "16", "32", "64", "256", "512")),
)

# What the arms show that the paper does not have: those that run as the captions say, and its future work.
CORRECTIONS = (
    Claim(
        "Schedules that run as their names say score higher than the paper's",
        "scheduler",
        _over_own("_fixed", "linear", "polynomial", "one_cycle"),
    ),
    Claim(
        "Cosine scores higher than schedules that run as their names say",
        "scheduler",
        _over("cosine", "linear_fixed", "polynomial_fixed", "one_cycle_fixed"),
    ),
    Claim("Warm restarts score higher than one cosine", "scheduler", (("warm_restarts", "cosine"),)),
    Claim(
        "At usual settings Adam, RMSprop, AdamW and Adagrad score higher than at the paper's",
        "optimizer",
        _over_own("_fixed", "adam", "rmsprop", "adamw", "adagrad"),
    ),
    Claim(
        "SGD scores higher than Adam, RMSprop, AdamW and Adagrad at usual settings",
        "optimizer",
        _over("sgd", "adam_fixed", "rmsprop_fixed", "adamw_fixed", "adagrad_fixed"),
    ),
    Claim(
        "Warm-up helps Adam, RMSprop, AdamW and Adagrad at usual settings",
        "optimizer",
        _over_own("_fixed_warmup", "adam", "rmsprop", "adamw", "adagrad", of="_fixed"),
    ),
    Claim("RAdam scores higher than Adam", "optimizer", (("radam", "adam_fixed"),)),
    Claim("100 epochs score higher with a cosine of their length", "epochs", (("100_fixed", "100"),)),
    Claim(
        "With a cosine of their length, more epochs score higher",
        "epochs",
        (("200", "100_fixed"), ("300_fixed", "200"), ("400_fixed", "300_fixed")),
    ),
)
