"""Exported files give the model's probabilities without this package."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.export
import numpy as np
import onnx
import onnxruntime
import pytest

import jaxresnet
from jaxresnet import export
from jaxresnet.data.loading import load_dataset
from tests.conftest import REPOSITORY, make_tiny_config

ONNX_PYTHON = REPOSITORY / ".venv-onnx" / "bin" / "python"
DIGITS = load_dataset("digits", None, 10).test.images


@pytest.fixture(scope="module")
def window_run(tmp_path_factory, tiny_npz):
    """Train a model with a window of average pooling and with normalisation, and return the workdir."""
    config = make_tiny_config(tiny_npz)
    config.num_epochs = 1
    config.model.pooling = "5"
    workdir = tmp_path_factory.mktemp("window") / "run"
    jaxresnet.train_and_evaluate(config, str(workdir))
    return workdir


@pytest.fixture(params=[pytest.param("global pooling", marks=pytest.mark.reliability), "window"])
def run(request, quickstart_run, window_run):
    return quickstart_run if request.param == "global pooling" else window_run


def exported(run, format, tmp_path):
    out = tmp_path / f"model.{format}"
    arguments = [f"--workdir={run}", f"--format={format}", f"--out={out}"]
    if format == "onnx":  # The converter is installed in an environment of its own.
        if not ONNX_PYTHON.exists():
            pytest.skip("make .venv-onnx/installed")
        command = [ONNX_PYTHON, "-m", "jaxresnet.export", *arguments]
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stderr) == (0, "")
    else:
        export.main(arguments)
    return out


def test_stablehlo_of_any_batch_size(run, tmp_path):
    out = exported(run, "stablehlo", tmp_path)
    function = jax.export.deserialize(out.read_bytes())
    assert function.platforms == ("cpu", "cuda", "rocm", "tpu")
    classifier = jaxresnet.load(str(run))
    for size in (1, 7, 128):
        probabilities = function.call(DIGITS[:size])
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities, classifier.probabilities(DIGITS[:size]), rtol=0, atol=1e-5)


def test_onnx_of_any_batch_size(run, tmp_path):
    out = exported(run, "onnx", tmp_path)
    onnx.checker.check_model(onnx.load(out), full_check=True)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    (pixels,) = session.get_inputs()
    assert (pixels.name, pixels.type, pixels.shape) == ("images", "tensor(uint8)", ["batch", 32, 32, 3])
    classifier = jaxresnet.load(str(run))
    for size in (1, 7, 128):
        (probabilities,) = session.run(["probabilities"], {"images": DIGITS[:size]})
        np.testing.assert_allclose(probabilities, classifier.probabilities(DIGITS[:size]), rtol=0, atol=1e-5)
    names = session.get_modelmeta().custom_metadata_map["class_names"]
    assert tuple(json.loads(names)) == classifier.class_names


@pytest.mark.reliability
def test_bfloat16_is_exported(tiny_config, tmp_path):
    """StableHLO computes as the run did. ONNX computes in float32, so it may differ by bfloat16's rounding."""
    tiny_config.dtype = "bfloat16"
    tiny_config.num_epochs = 1
    jaxresnet.train_and_evaluate(tiny_config, str(tmp_path / "run"))
    expected = jaxresnet.load(str(tmp_path / "run")).probabilities(DIGITS[:16])
    function = jax.export.deserialize(exported(tmp_path / "run", "stablehlo", tmp_path).read_bytes())
    np.testing.assert_allclose(function.call(DIGITS[:16]), expected, rtol=0, atol=1e-5)
    session = onnxruntime.InferenceSession(exported(tmp_path / "run", "onnx", tmp_path))
    np.testing.assert_allclose(session.run(None, {"images": DIGITS[:16]})[0], expected, rtol=0, atol=0.02)


def test_default_file_lies_in_workdir(window_run, capsys):
    export.main([f"--workdir={window_run}", "--format=stablehlo"])
    assert (window_run / "model.stablehlo").is_file()
    assert str(window_run / "model.stablehlo") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--workdir=none", "none holds no run: there is no config.json in it"),
        ("--workdir=.", "holds no run"),
        ("--format=release", "needs --out, a new folder"),
    ],
)
def test_mistakes_get_one_line(window_run, tmp_path, monkeypatch, capsys, flag, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        export.main([f"--workdir={window_run}", "--format=stablehlo", flag])
    assert message in capsys.readouterr().err


def test_missing_converter_is_named(window_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(SystemExit):
        export.main([f"--workdir={window_run}", "--format=onnx", f"--out={tmp_path / 'm.onnx'}"])
    assert "pip install 'jaxresnet[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "m.onnx").exists()


def test_changed_activation_is_exported(window_run):
    """Only the kernels for CPUs are replaced by the functions that they compute."""
    classifier = jaxresnet.load(str(window_run))
    leaky = dataclasses.replace(classifier, model=classifier.model.clone(relu=jax.nn.leaky_relu))
    probabilities = jax.export.deserialize(export.to_stablehlo(leaky)).call(DIGITS[:7])
    np.testing.assert_allclose(probabilities, leaky.probabilities(DIGITS[:7]), rtol=0, atol=1e-5)
    assert np.abs(probabilities - classifier.probabilities(DIGITS[:7])).max() > 1e-3
