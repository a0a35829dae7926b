"""Peak memory of commands on two CPU cores, compilation included."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPOSITORY

# Packages that only the tests' environment has, and that others import if they can, count elsewhere. A small process
# starts the command, because a process counts what the one that started it held.
MEASURE = """
import resource, subprocess, sys
RUN = '''
import runpy, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "pyarrow"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
'''
subprocess.run([sys.executable, "-c", RUN, *sys.argv[1:]], check=True, stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9)
"""


@pytest.fixture
def peak(subprocess_environment, tmp_path):
    """Return a function that runs a command on two devices, nothing compiled before, and returns its peak in GB."""
    environment = subprocess_environment | {"JAX_NUM_CPU_DEVICES": "2", "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def peak(*arguments):
        command = [sys.executable, "-c", MEASURE, *map(str, arguments)]
        done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=560)
        assert done.returncode == 0, done.stderr
        return float(done.stdout)

    return peak


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Return a .npz file with full batches and a part of one, as they decide the peak: 2,640 to train, 260 to test."""
    file = tmp_path_factory.mktemp("data") / "pictures.npz"
    images = np.random.default_rng(0).integers(0, 256, (2640, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(2640) % 10
    np.savez(file, train_images=images, train_labels=labels, test_images=images[:260], test_labels=labels[:260])
    Image.fromarray(images[0]).save(file.with_name("cat.png"))
    return file


@pytest.mark.reliability
@pytest.mark.parametrize(
    "command",
    ["evaluate --mirror", "predict --grid=grid.png", pytest.param("evaluate", marks=pytest.mark.thorough)],
)
def test_scoring_stays_below_two_gigabytes(peak, pictures, tmp_path, command):
    name, *flags = command.replace("=", f"={tmp_path}/").split()
    # CIFAR-10's own 60,000 images add 0.3 GB to those of these few.
    assert 0.3 < peak(f"jaxresnet.{name}", f"--data_dir={pictures}", *flags) < 1.7


@pytest.mark.reliability
def test_one_picture_takes_little_memory(peak, pictures):
    assert 0.2 < peak("jaxresnet.predict", pictures.with_name("cat.png")) < 0.8


@pytest.mark.reliability
def test_quick_start_stays_below_one_gigabyte(peak, tmp_path):
    flags = ["--config=quickstart", f"--workdir={tmp_path / 'run'}", "--config.num_epochs=2"]
    assert 0.3 < peak("jaxresnet.main", *flags) < 1


@pytest.mark.reliability
def test_small_training_stays_below_limit(peak, pictures, tmp_path):
    flags = ["--config=cpu", f"--workdir={tmp_path / 'run'}", "--config.num_epochs=1"]
    # The limit is 1.5 GB. CIFAR-10's own 60,000 images add 0.2 GB to those of these few.
    assert 0.3 < peak("jaxresnet.main", *flags, f"--config.dataset.data_dir={pictures}") < 1.3
