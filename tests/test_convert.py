"""PyTorch's files converted to run directories and back, and files that are refused."""

import io
import json

import numpy as np
import pytest
import safetensors.numpy

from jaxresnet import evaluate, export
from jaxresnet.convert import import_weights, read_torch_file
from jaxresnet.core.programs import epoch_order
from jaxresnet.data.loading import load_dataset
from jaxresnet.system.errors import UserError
from jaxresnet.training import train_and_evaluate
from jaxresnet.workdir.folder import read_class_names, read_summary, write_class_names
from jaxresnet.workdir.log import read_metrics
from jaxresnet.workdir.runs import read_runs
from tests.torch_reference import F, TorchResNet, from_torch, needs_torch, to_torch_images, torch


def create_model():
    """Create the network of ``tiny_config`` with random BatchNorm weights, after three batches in training mode."""
    torch.manual_seed(0)
    model = TorchResNet(channels=(4, 8), blocks=(1, 1)).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
    for _ in range(3):
        model(torch.rand(8, 3, 32, 32))
    return model


@pytest.fixture
def state_dict():
    """Return the arrays of ``create_model``."""
    return from_torch("convert/model", lambda: create_model().state_dict())


def save_as_the_authors_do(model, path, epoch=0, accuracy=95.5):
    torch.save({"net": torch.nn.DataParallel(model).state_dict(), "acc": accuracy, "epoch": epoch}, path)
    return path


@pytest.fixture
def authors_file(state_dict, tmp_path):
    """Return the path of a file as the authors save it, or, without PyTorch, of a .safetensors file."""
    if torch:
        return save_as_the_authors_do(create_model(), tmp_path / "ckpt.pth")
    safetensors.numpy.save_file(state_dict, tmp_path / "ckpt.safetensors")
    return tmp_path / "ckpt.safetensors"


def without_counters(state_dict):
    return {key: np.asarray(a) for key, a in state_dict.items() if not key.endswith("num_batches_tracked")}


def exported(workdir, out):
    kind = "safetensors" if out.suffix == ".safetensors" else "torch"
    export.main([f"--workdir={workdir}", f"--format={kind}", f"--out={out}"])
    return safetensors.numpy.load_file(out) if kind == "safetensors" else torch.load(out)


@needs_torch
def test_authors_file_is_read(authors_file):
    checkpoint = read_torch_file(authors_file)
    assert checkpoint.accuracy == 95.5
    assert all(key.startswith("module.") for key in checkpoint.state_dict)


@needs_torch
@pytest.mark.parametrize("form", ["state dict", "state_dict inside", "safetensors", "bfloat16", "legacy"])
def test_other_files_are_read(tmp_path, form):
    state_dict = create_model().state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        safetensors.numpy.save_file({key: tensor.numpy() for key, tensor in state_dict.items()}, path)
    elif form == "bfloat16":
        state_dict = {key: t.bfloat16() if t.is_floating_point() else t for key, t in state_dict.items()}
        torch.save(state_dict, path)
    else:
        contents = {"state_dict": state_dict} if form == "state_dict inside" else state_dict
        torch.save(contents, path, _use_new_zipfile_serialization=form != "legacy")
    checkpoint = read_torch_file(path)
    assert checkpoint.accuracy is None
    assert checkpoint.state_dict.keys() == state_dict.keys()
    for key, tensor in state_dict.items():
        np.testing.assert_array_equal(checkpoint.state_dict[key].astype(np.float32), tensor.float().numpy())


@pytest.mark.parametrize("name", [pytest.param("out.pth", marks=needs_torch), "out.safetensors"])
def test_import_and_export_are_bit_exact(authors_file, state_dict, tiny_config, tmp_path, name):
    import_weights(authors_file, tiny_config, tmp_path / "run")
    back = exported(tmp_path / "run", tmp_path / name)
    expected = without_counters(state_dict)
    assert back.keys() == expected.keys()
    for key, array in expected.items():
        assert (np.asarray(back[key]).dtype, np.asarray(back[key]).shape) == (array.dtype, array.shape), key
        assert np.asarray(back[key]).tobytes() == array.tobytes(), key
    if torch:
        TorchResNet(channels=(4, 8), blocks=(1, 1)).load_state_dict({k: torch.as_tensor(v) for k, v in back.items()})


def test_safetensors_hold_class_names(authors_file, tiny_config, tmp_path):
    import_weights(authors_file, tiny_config, tmp_path / "run")
    names = tuple(f"kind {label}" for label in range(10))
    write_class_names(names, tmp_path / "run")
    file = tmp_path / "named.safetensors"
    arrays = exported(tmp_path / "run", file)
    import_weights(file, tiny_config, tmp_path / "again")
    assert read_class_names(tmp_path / "again", tiny_config) == names
    for text in ("[0, 1]", '{"a": "b"}', '"abcdefghij"', '["a", "a"]', "cat, dog"):  # as another program may write
        safetensors.numpy.save_file(arrays, file, {"class_names": text})
        assert read_torch_file(file).class_names is None


@needs_torch
def test_import_is_recorded(authors_file, tiny_config, tmp_path):
    said = import_weights(authors_file, tiny_config, tmp_path / "run")
    assert "its file claims 95.50% accuracy" in said
    origin = json.loads((tmp_path / "run" / "imported.json").read_text())
    assert (origin["file"], origin["accuracy"]) == ("ckpt.pth", 95.5)


def test_evaluate_equals_torch_on_imports(authors_file, tiny_config, tmp_path):
    import_weights(authors_file, tiny_config, tmp_path / "run")
    sums = evaluate.evaluate_run(str(tmp_path / "run"), "last").scores.sums
    test = load_dataset("cifar10", tiny_config.dataset.data_dir, 10).test

    def evaluate_in_torch():
        with torch.no_grad():
            logits = create_model().eval()(normalised(test.images, tiny_config))
        labels = torch.tensor(test.labels, dtype=torch.int64)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        return {"correct": (logits.argmax(1) == labels).sum(), "loss": loss}

    expected = from_torch("convert/evaluation", evaluate_in_torch)
    assert sums.correct == expected["correct"]
    assert sums.loss == pytest.approx(float(expected["loss"]), rel=1e-5)


def normalised(pixels, config):
    mean, std = np.float32(config.augment.mean), np.float32(config.augment.std)
    return to_torch_images((pixels.astype(np.float32) / 255 - mean) / std)


def test_training_continues_as_in_torch(authors_file, tiny_config, tmp_path):
    """Train two epochs from an imported checkpoint, here and in PyTorch.

    Both take the same batches. Losses and weights are equal at the end. Nothing is random: there is no dropout, crop or
    flip.
    """
    config = tiny_config
    with config.unlocked():
        config.model.dropout_rate = 0.0
        config.augment.crop_padding, config.augment.flip = 0, False
        config.log_every_steps = 1
        config.schedule.learning_rate = 0.01  # at 0.1 even PyTorch's float32 and float64 diverge
    import_weights(authors_file, config, tmp_path / "run")
    summary = train_and_evaluate(config, str(tmp_path / "run"))

    train = load_dataset("cifar10", config.dataset.data_dir, 10).train

    def train_in_torch():
        model = create_model()
        optimizer = torch.optim.SGD(
            model.parameters(), config.schedule.learning_rate, config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
        )  # fmt: skip
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2)
        losses = []
        for epoch in (0, 1):
            order, total = epoch_order(config.seed, epoch, len(train)), 0.0
            for start in range(0, len(order), config.batch_size):
                batch = order[start : start + config.batch_size]
                logits = model(normalised(train.images[batch], config))
                loss = F.cross_entropy(logits, torch.tensor(train.labels[batch]).long())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item() * len(batch)
                losses.append(total / min(start + config.batch_size, len(order)))
            schedule.step()
        return {"losses": losses} | without_counters(model.state_dict())

    theirs = from_torch("convert/training", train_in_torch, relative=1e-4)  # twelve steps amplify rounding
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 13))  # six steps per epoch
    np.testing.assert_allclose([line["train_loss"] for line in lines], theirs.pop("losses"), rtol=1e-4)
    actual = exported(tmp_path / "run", tmp_path / "w.safetensors")
    for key, expected in theirs.items():
        np.testing.assert_allclose(actual[key], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max(), err_msg=key)
    assert summary["last"]["epoch"] == 2
    assert summary["images_per_second"] == pytest.approx(2 * len(train) / summary["train_seconds"])


def test_finished_import_has_nothing_to_train(authors_file, tiny_config, tmp_path, capsys):
    import_weights(authors_file, tiny_config, tmp_path / "run")
    train_and_evaluate(tiny_config, str(tmp_path / "run"))
    assert read_summary(tmp_path / "run")["last"]["epoch"] == 2
    train_and_evaluate(tiny_config, str(tmp_path / "run"))
    assert "already holds this run, finished" in capsys.readouterr().out


def test_report_excludes_imported_runs(authors_file, tiny_config, tmp_path, capsys):
    import_weights(authors_file, tiny_config, tmp_path / "runs" / "a")
    assert read_runs(tmp_path / "runs") == []
    assert "did not begin with random weights" in capsys.readouterr().err


def test_import_overwrites_no_workdir(authors_file, tiny_config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="exists; give a new folder"):
        import_weights(authors_file, tiny_config, tmp_path / "run")
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["mine.txt"]


# Invalid files.


def truncated(content, tmp_path):
    return content[: len(content) // 2]


def saved(contents, **options):
    buffer = io.BytesIO()
    torch.save(contents, buffer, **options)
    return buffer.getvalue()


DAMAGED = {
    "empty": (lambda content, path: b"", "is not a PyTorch checkpoint"),
    "truncated": (truncated, "or a damaged one"),
    "random": (lambda content, path: np.random.default_rng(0).bytes(5000), "or a damaged one"),
    "whole model": (lambda content, path: saved(torch.nn.Linear(2, 2)), "asks for torch.nn.modules.linear.Linear"),
    "a list": (lambda content, path: saved([1, 2]), "holds a list"),
    "a number inside": (
        lambda content, path: saved({"net": {"conv1.weight": 3}}),
        "'conv1.weight' is a int: expected a tensor",
    ),
}


@needs_torch
@pytest.mark.parametrize("damage", DAMAGED)
def test_other_files_get_one_line(authors_file, tiny_config, tmp_path, damage):
    change, message = DAMAGED[damage]
    authors_file.write_bytes(change(authors_file.read_bytes(), tmp_path))
    with pytest.raises(UserError) as raised:
        import_weights(authors_file, tiny_config, tmp_path / "run")
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


WEIGHTS = torch and {
    "conv1.weight": torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)),
    "bn1.num_batches_tracked": torch.tensor(3),
    "linear.bias": torch.ones(5, dtype=torch.bfloat16),
}
CHECKPOINT = {"net": WEIGHTS, "acc": np.float64(93.25), "epoch": 3}
ARCHIVE = torch and saved(CHECKPOINT)


def assert_the_checkpoint(read):
    assert read.accuracy == 93.25 and read.state_dict.keys() == WEIGHTS.keys()
    for key, tensor in WEIGHTS.items():
        np.testing.assert_array_equal(read.state_dict[key].astype(np.float32), tensor.float().numpy())


@needs_torch
@pytest.mark.reliability
def test_wrong_checksum_in_archive_is_refused(tmp_path):
    """PyTorch itself does not check an archive's checksums."""
    stored = WEIGHTS["conv1.weight"].numpy().tobytes()
    (tmp_path / "w.pth").write_bytes(ARCHIVE.replace(stored, stored[:-1] + b"\0"))
    with pytest.raises(UserError, match="a damaged one"):
        read_torch_file(tmp_path / "w.pth")


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}", b"\xff" * 100, b"junk"])
def test_damaged_safetensors_are_refused(tiny_config, tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"is not a safetensors file|missing") as raised:
        import_weights(tmp_path / "w.safetensors", tiny_config, tmp_path / "run")
    assert not (tmp_path / "run").exists(), raised.value


def test_missing_file_and_folder_are_refused(tiny_config, tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(UserError, match="there is no such file"):
            import_weights(path, tiny_config, tmp_path / "run")


def test_untrainable_config_is_refused(authors_file, tiny_config, tmp_path):
    tiny_config.optimizer.name = "foo"
    with pytest.raises(UserError, match=r"optimizer.name='foo': expected one of"):
        import_weights(authors_file, tiny_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_failed_import_leaves_nothing(authors_file, tiny_config, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr("jaxresnet.convert.save_config", fail)
    with pytest.raises(OSError, match="No space left"):
        import_weights(authors_file, tiny_config, tmp_path / "runs" / "a")
    assert list((tmp_path / "runs").iterdir()) == []


def test_config_changed_after_import_is_named(authors_file, tiny_config, tmp_path):
    import_weights(authors_file, tiny_config, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["model"]["channels"] = [8, 8]
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"is of another run \(model.channels=\[4, 8\]\)") as raised:
        evaluate.evaluate_run(str(tmp_path / "run"), "last")
    assert "\n" not in str(raised.value)
