"""Compare fine-tuning with training from scratch and with frozen features, on classes that pretraining has not seen.

    python -m scripts.finetune_study runs/finetune_study results/measurements/finetune.json

The rule, written before the first result. A network of quarter width (``configs/cpu.py``) is pretrained for 2 epochs on
all training images of CIFAR-10's first 7 classes, with seed 0. Then ``jaxresnet finetune`` learns the last 3 classes
from 20 or 100 of their training images each, drawn by seed 0, 1 or 2, which is also the seed of the run. Three arms get
the same images, batches and epochs, those that the command chooses:

- fine-tuned: the command's defaults;
- frozen features: the same with ``--freeze=all-but-head``;
- from scratch: the same network without its weights, at the learning rate of ``configs/default.py``.

The score is the accuracy of the last epoch on the 3,000 test images of these 3 classes, as mean and sample standard
deviation over the seeds. Nothing is selected. An arm is called better at a size only if it is for each of the seeds.
"""

import argparse
import json
import pathlib
import statistics

import numpy as np
from PIL import Image

from jaxresnet import cli, finetune
from jaxresnet.config import get_config
from jaxresnet.data.cifar import Arrays
from jaxresnet.data.loading import Dataset, load_dataset
from jaxresnet.system.devices import set_up_jax
from jaxresnet.system.files import write_whole
from jaxresnet.training import train_and_evaluate

KNOWN, SIZES, SEEDS = 7, (20, 100), (0, 1, 2)
ARMS = {
    "fine-tuned": (),
    "frozen features": ("--freeze=all-but-head",),
    "from scratch": ("--config.init_from=none", "--config.schedule.learning_rate=0.1"),
}


def pretrain(data: Dataset, folder: pathlib.Path) -> None:
    """Train on the first classes."""
    arrays: Arrays = {}
    for split in ("train", "test"):
        images, labels = getattr(data, split).images, getattr(data, split).labels
        arrays |= {f"{split}_images": images[labels < KNOWN], f"{split}_labels": labels[labels < KNOWN]}
    np.savez(folder / "known.npz", allow_pickle=False, class_names=np.array(data.class_names[:KNOWN]), **arrays)
    fields = {"dataset.data_dir": str(folder / "known.npz"), "model.num_classes": str(KNOWN), "num_epochs": "2"}
    train_and_evaluate(get_config("cpu", fields), str(folder / "pretrained"))


def save_pictures(data: Dataset, folder: pathlib.Path, size: int, seed: int) -> pathlib.Path:
    """Write training images of the other classes, drawn by seed, and all their test images, and return the folder."""
    pictures = folder / f"pictures-{size}-{seed}"
    for label, name in enumerate(data.class_names[KNOWN:], start=KNOWN):
        drawn = np.random.RandomState(seed).permutation(np.flatnonzero(data.train.labels == label))[:size]
        for split, indices in (("train", drawn), ("test", np.flatnonzero(data.test.labels == label))):
            (pictures / split / name).mkdir(parents=True, exist_ok=True)
            for index in indices:
                image = Image.fromarray(getattr(data, split).images[index])
                image.save(pictures / split / name / f"{index}.png")
    return pictures


def study(arguments: argparse.Namespace) -> None:
    """Train all runs that have not finished, write their accuracies, and print the table."""
    set_up_jax()
    folder, data = pathlib.Path(arguments.folder), load_dataset("cifar10", None, 10)
    folder.mkdir(parents=True, exist_ok=True)
    pretrain(data, folder)
    accuracies: dict[str, dict[str, list[float]]] = {str(size): {arm: [] for arm in ARMS} for size in SIZES}
    for size, seed, arm in [(size, seed, arm) for seed in SEEDS for size in SIZES for arm in ARMS]:
        workdir = folder / f"{arm.replace(' ', '-')}-{size}-{seed}"
        flags = [f"--workdir={workdir}", f"--from={folder / 'pretrained'}", f"--config.seed={seed}", *ARMS[arm]]
        pictures = save_pictures(data, folder, size, seed)
        finetune.main([str(pictures), *flags, "--config.eval_every_epochs=1000"])
        summary = json.loads((workdir / "summary.json").read_text())
        accuracies[str(size)][arm].append(summary["last"]["accuracy"])
    write_whole(pathlib.Path(arguments.out), json.dumps(accuracies, indent=1) + "\n")
    for count, arms in accuracies.items():
        cells = (f"{arm} {statistics.mean(each):.1f} ± {statistics.stdev(each):.1f}" for arm, each in arms.items())
        print(f"{count} images of a class: {', '.join(cells)}")


if __name__ == "__main__":
    parser = cli.Parser("scripts.finetune_study", __doc__)
    parser.add_argument("folder", help="folder for pictures and runs")
    parser.add_argument("out", help="file for the accuracies by number of images, arm and seed")
    cli.run(study, parser)
