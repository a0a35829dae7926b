"""Weights from PyTorch and back: equal logits, equal bits, and messages about weights that do not fit."""

import re

import jax
import numpy as np
import pytest
import torch

from jaxresnet.core.model import ResNet
from jaxresnet.system.errors import UserError
from jaxresnet.torch_weights import UnfitWeights, from_state_dict, infer_architecture, to_state_dict
from tests.core.test_model import ARCHITECTURES, HEAD, assert_close, each_architecture, images
from tests.torch_reference import TorchResNet, to_torch_images


def torch_model(name):
    """Create a PyTorch model with random weights and statistics, and nonzero counters."""
    torch.manual_seed(0)
    model = TorchResNet(**ARCHITECTURES[name][0], head=HEAD.get(name, 1))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
            torch.nn.init.normal_(module.running_mean, 0, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            module.num_batches_tracked += torch.randint(1, 100_000, ())
    return model


def to_numpy(state_dict):
    return {key: tensor.detach().numpy() for key, tensor in state_dict.items()}


@each_architecture
@pytest.mark.parametrize("prefix", ["", "module."])
def test_logits_equal_torchs(name, prefix):
    model = torch_model(name)
    state_dict = {prefix + key: array for key, array in to_numpy(model.state_dict()).items()}
    fields = ARCHITECTURES[name][0]
    variables = from_state_dict(state_dict, fields)
    logits = jax.jit(lambda v, x: ResNet(**fields).apply(v, x, train=False))(variables, images())
    with torch.no_grad():
        assert_close(logits, model.eval()(to_torch_images(images())))


@each_architecture
def test_the_round_trip_is_bit_exact(name):
    state_dict = to_numpy(torch_model(name).state_dict())
    back = to_state_dict(from_state_dict(state_dict, ARCHITECTURES[name][0]))
    assert list(back) == list(state_dict)  # in PyTorch's own order, too
    for key, array in state_dict.items():
        assert (back[key].dtype, back[key].shape) == (array.dtype, array.shape)
        assert back[key].tobytes() == array.tobytes(), key


def test_from_flax_to_torch_and_back_is_bit_exact_and_torch_accepts_it():
    model = ResNet(channels=(4, 8), blocks=(1, 2))
    variables = model.init(jax.random.key(0), images(), train=False)
    state_dict = to_state_dict(variables)
    reference = TorchResNet(channels=(4, 8), blocks=(1, 2))
    reference.load_state_dict({key: torch.tensor(array) for key, array in state_dict.items()}, strict=True)
    with torch.no_grad():
        assert_close(model.apply(variables, images(), train=False), reference.eval()(to_torch_images(images())))
    back = from_state_dict(state_dict, dict(channels=(4, 8), blocks=(1, 2)))
    for collection in ("params", "batch_stats"):
        assert jax.tree.structure(back[collection]) == jax.tree.structure(variables[collection])
        jax.tree.map(np.testing.assert_array_equal, back[collection], variables[collection])


SMALL = dict(channels=(4, 8), blocks=(1, 1))


def small_state_dict():
    return to_numpy(TorchResNet(**SMALL).state_dict())


def test_files_older_than_the_counters_are_accepted():
    state_dict = {key: array for key, array in small_state_dict().items() if not key.endswith("num_batches_tracked")}
    back = to_state_dict(from_state_dict(state_dict, SMALL))
    assert back.keys() - state_dict.keys() == {key for key in back if key.endswith("num_batches_tracked")}
    assert all(back[key] == 0 for key in back.keys() - state_dict.keys())


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_precisions_become_float32(dtype):
    state_dict = {
        key: array.astype(dtype) if array.dtype == np.float32 else array for key, array in small_state_dict().items()
    }
    back = to_state_dict(from_state_dict(state_dict, SMALL))
    np.testing.assert_array_equal(back["conv1.weight"], state_dict["conv1.weight"].astype(np.float32))


def test_every_key_that_does_not_fit_is_named():
    state_dict = small_state_dict()
    del state_dict["bn1.weight"], state_dict["layer2.0.conv1.weight"]
    state_dict |= {"fc.bias": np.zeros(3), "extra": np.zeros(3)}
    state_dict["linear.weight"] = np.zeros((100, 8), np.float32)
    with pytest.raises(UnfitWeights) as raised:
        from_state_dict(state_dict, SMALL)
    assert str(raised.value).splitlines() == [
        "2 missing: bn1.weight, layer2.0.conv1.weight",
        "2 unexpected: fc.bias, extra",
        "1 of another shape: linear.weight (100, 8), expected (10, 8)",
    ]


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN or infinity"), (np.inf, "NaN or infinity")])
def test_weights_that_are_no_numbers_are_refused(value, message):
    state_dict = small_state_dict()
    state_dict["conv1.weight"] = np.full_like(state_dict["conv1.weight"], value)
    with pytest.raises(UserError, match=message):
        from_state_dict(state_dict, SMALL)


def test_weights_of_integers_are_refused():
    state_dict = small_state_dict()
    state_dict["conv1.weight"] = state_dict["conv1.weight"].astype(np.int8)
    with pytest.raises(UserError, match=re.escape("conv1.weight is int8")):
        from_state_dict(state_dict, SMALL)


def test_the_architecture_is_read_off_the_shapes():
    fields, _ = ARCHITECTURES["other-kernels"]
    found = infer_architecture(to_numpy(torch_model("other-kernels").state_dict()))
    assert found == {name: value for name, value in fields.items() if name != "pooling"} | {"num_classes": 10}
    assert infer_architecture({"conv1.weight": np.zeros((2, 3, 3, 3))}) == {}
    assert infer_architecture({}) == {}


def test_a_prefix_is_taken_off_only_where_every_key_has_it():
    state_dict = small_state_dict()
    compiled = {f"_orig_mod.module.{key}": array for key, array in state_dict.items()}
    assert from_state_dict(compiled, SMALL).keys() == {"params", "batch_stats", "num_batches_tracked"}
    with pytest.raises(UnfitWeights, match=r"unexpected: module\.conv1\.weight"):
        from_state_dict(state_dict | {"module.conv1.weight": np.zeros((4, 3, 3, 3), np.float32)}, SMALL)


@pytest.mark.parametrize("count", [np.float32(3), np.int64(-1), np.uint64(2**63)])
def test_counters_that_cannot_be_are_refused(count):
    with pytest.raises(UserError, match="expected a number of batches"):
        from_state_dict(small_state_dict() | {"bn1.num_batches_tracked": np.asarray(count)}, SMALL)


def test_float64_beyond_float32_is_refused():
    state_dict = small_state_dict()
    state_dict["conv1.weight"] = np.full((4, 3, 3, 3), 1e300)
    with pytest.raises(UserError, match="holds NaN or infinity"):
        from_state_dict(state_dict, SMALL)


@pytest.mark.parametrize(
    ("fields", "message"), [({"chanels": (4,)}, "no such field"), ({"pooling": "abc"}, 'expected "global"')]
)
def test_models_that_cannot_be_built_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        from_state_dict({}, SMALL | fields)
