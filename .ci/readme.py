"""Run the README's commands and its Python as after ``make quickstart``: with the core dependencies alone."""

import doctest
import importlib.util
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time

import numpy as np
import PIL.Image

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
README = REPOSITORY / "README.md"
# What would take minutes or hours gets a few images, by the command's first words.
FEW = {
    "jaxresnet finetune": ["--config.num_epochs=1"],
    "jaxresnet train": [
        *("--config.dataset.data_dir=cifar10.npz", "--config.num_epochs=1", "--config.batch_size=20"),
        "--config.model.channels=8,16,32",
    ],
    "jaxresnet evaluate": ["--data_dir=cifar10.npz"],
    "jaxresnet predict --grid": ["--data_dir=cifar10.npz"],
}


def commands():
    """Return the README's commands, each as a list of words, but those of make and pip, which have installed this."""
    blocks = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", README.read_text(encoding="utf-8"))
    unmarked = [block for language, block in blocks if not language]
    lines = [shlex.split(line, comments=True) for block in unmarked for line in block.splitlines()]
    return [line for line in lines if line and line[0] not in ("make", "pip")]


def main():
    """Run all in a new folder that links to the clone, with a photograph, a folder of them and a small cifar10.npz."""
    if importlib.util.find_spec("pytest"):
        sys.exit("this environment has the test extra; run this in that of `make quickstart` (make clean removes both)")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for path in REPOSITORY.iterdir():
            if path.name not in ("runs", "report") and not path.name.startswith("."):
                pathlib.Path(path.name).symlink_to(path)
        rng = np.random.default_rng(0)
        images, labels = rng.integers(0, 256, (40, 32, 32, 3), np.uint8), np.arange(40) % 10
        arrays = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
        np.savez("cifar10.npz", **arrays)
        for place in ("photos", "pets/cat", "pets/dog"):
            pathlib.Path(place).mkdir(parents=True)
        for name in (
            "cat.jpg",
            "photos/dog.png",
            *(f"pets/{kind}/{i}.jpg" for kind in ("cat", "dog") for i in range(5)),
        ):
            PIL.Image.fromarray(images[0]).resize((200, 150)).save(name)
        environment = os.environ | {"PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}
        found = commands()
        assert len(found) >= 8
        for command in found:
            start = time.monotonic()
            few = next((flags for words, flags in FEW.items() if shlex.join(command).startswith(words)), [])
            subprocess.run([*command, *few], check=True, env=environment, stdout=subprocess.DEVNULL)
            print(f"{time.monotonic() - start:5.0f} s  {shlex.join(command)}", flush=True)
        sys.exit(doctest.testfile(str(README), module_relative=False).failed)


if __name__ == "__main__":
    main()
