"""Train a model further on pictures of your own.

    jaxresnet finetune photos/ --workdir=runs/photos

photos/ holds a folder for each class, or train/CLASS/ and test/CLASS/. Without these two, a fifth of each class is
drawn as test images, and split.json in the run lists them. The network and its normalisation are those of the model
that training begins with. Its linear layer is a new one, unless its classes have the same names. The rest follows from
the number of training images:

- batch_size is an eighth of it, rounded down to a power of two, from 8 to 64;
- num_epochs is 40,000 divided by it, from 10 to 60;
- SGD, with a cosine schedule from a learning rate of 0.02, or of 0.1 if only the linear layer is trained;
- training images are mirrored at random, and shifted by up to 4 pixels.

Every field can be given instead, such as --config.num_epochs=5, or --config.augment.flip=False if mirroring changes
the class. --config.dataset.image_size=64 uses more of each picture, and takes four times as long.
"""

import argparse
import pathlib
from collections.abc import Mapping

from ml_collections import ConfigDict

from jaxresnet import cli, released
from jaxresnet.config import CONFIG_FILE, apply, get_config, load_config
from jaxresnet.data.images import find_images
from jaxresnet.extensions import find
from jaxresnet.system.errors import UserError, user_path


def choose_config(
    photos: pathlib.Path, workdir: pathlib.Path, init_from: str, freeze: str, overrides: Mapping[str, str]
) -> ConfigDict:
    """Return the config that follows from the pictures and from the model to begin with.

    A run that ``workdir`` already holds stands for that model, so that it resumes without it.

    Raises:
        UserError: there are no pictures of two classes, no such model, or it needs a file that ``--with`` did not give.
        UsageError: a field in ``overrides`` is invalid.
    """
    if not photos.is_dir():
        raise UserError(f"{photos}: there is no such folder; give one that holds a folder of pictures for each class")
    classes = find_images(photos)[0]["train"]
    size = sum(map(len, classes.values()))
    place = workdir if (workdir / CONFIG_FILE).exists() else released.resolve(init_from)
    source = load_config(released.resolve(released.DEFAULT) if place.is_file() else place)
    if place.is_file() and "augment.mean" not in overrides:
        mean, std = source.augment.mean, source.augment.std
        print(f"{place} does not say how its images were normalised; if not with mean {mean} and std {std}, give")
        print("--config.augment.mean and --config.augment.std")
    block = pathlib.PurePath(source.model.block).name
    if ".py:" in block and "model.block" not in overrides:
        find({}, "model.block", block)  # A stored run never causes code to run: --with must have given the file.
    fields = {f"model.{name}": value for name, value in source.model.items()} | {
        "model.block": block,
        "name": "finetune",
        "init_from": init_from,
        "freeze": freeze,
        "model.num_classes": len(classes),
        "batch_size": min(2 ** max(3, min(6, (size // 8).bit_length() - 1)), size),
        "num_epochs": max(10, min(60, 40_000 // size)),
        "eval_batch_size": 128,
        "dataset.data_dir": str(photos.resolve()),
        "dataset.image_size": source.dataset.image_size,
        "augment.mean": source.augment.mean,
        "augment.std": source.augment.std,
        "schedule.learning_rate": 0.1 if freeze == "all-but-head" else 0.02,
        "schedule.step_per": "step",
    }
    config = get_config("default")
    with config.ignore_type():
        config.update_from_flattened_dict(fields)
    apply(config, overrides)
    return config


def finetune(arguments: argparse.Namespace) -> None:
    """Train as the flags say, and print what to do next."""
    photos, workdir = user_path(arguments.photos), user_path(arguments.workdir)
    config = choose_config(photos, workdir, arguments.init_from, arguments.freeze, arguments.overrides)

    from jaxresnet.system.devices import set_up_jax
    from jaxresnet.training import train_and_evaluate

    set_up_jax()
    train_and_evaluate(config, arguments.workdir)
    print(f"classify other pictures: jaxresnet predict --workdir={arguments.workdir} PICTURE")


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = cli.Parser("finetune", __doc__)
    parser.takes_fields = True
    parser.add_argument("photos", metavar="FOLDER", help="folder with a folder of pictures for each class")
    parser.add_argument("--workdir", required=True, help="run directory; a run that it already holds is resumed")
    text = f"run, release, .safetensors or .pth file to begin with, or one of {', '.join(released.MODELS)}"
    parser.add_argument("--from", dest="init_from", default=released.DEFAULT, help=f"{text} (default)")
    text = "stages that stay as they are: all-but-head, or some of stem,layer1,layer2,layer3"
    parser.add_argument("--freeze", default="", help=text)
    cli.run(finetune, parser, argv, trains=True)


if __name__ == "__main__":
    main()
