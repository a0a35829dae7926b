"""Weights from PyTorch and back: equal logits, equal bits, and messages about weights that do not fit."""

import jax
import numpy as np
import pytest

from jaxresnet.core.model import ResNet
from jaxresnet.system.errors import UserError
from jaxresnet.weights import from_state_dict, to_state_dict, torch_key
from tests.core.test_model import ARCHITECTURES, assert_close, create_torch_model, each_architecture, images
from tests.torch_reference import TorchResNet, from_torch, to_torch_images, torch


def random_state_dict(name, create=create_torch_model):
    """Return random weights and statistics with the keys and shapes of a PyTorch model, but without its counters."""

    def keys_and_shapes():
        state_dict = create(name).state_dict()
        return {"lines": [" ".join(map(str, (key, *value.shape))) for key, value in state_dict.items()]}

    rng, arrays = np.random.default_rng(0), {}
    for line in from_torch(f"weights/shapes of {name}", keys_and_shapes)["lines"]:
        key, *shape = str(line).split()
        shape = tuple(map(int, shape))
        if key.endswith(("bias", "running_mean")):
            array = rng.normal(0, 0.3, shape)
        elif len(shape) == 1:
            array = rng.uniform(0.5, 1.5, shape)
        else:
            array = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape)
        if not key.endswith("num_batches_tracked"):
            arrays[key] = array.astype(np.float32)
    return arrays


def load_state_dict(model, state_dict):
    """Load arrays into a PyTorch model, which lacks nothing but its counters."""
    model.load_state_dict({key: torch.tensor(array) for key, array in state_dict.items()}, strict=True)
    return model.eval()


@each_architecture
@pytest.mark.parametrize("prefix", ["", "module."])
def test_logits_equal_torchs(name, prefix):
    fields, state_dict = ARCHITECTURES[name][0], random_state_dict(name)

    def evaluate():
        with torch.no_grad():
            return {"logits": load_state_dict(create_torch_model(name), state_dict)(to_torch_images(images()))}

    variables = from_state_dict({prefix + key: array for key, array in state_dict.items()}, fields)
    logits = jax.jit(lambda v, x: ResNet(**fields).apply(v, x, train=False))(variables, images())
    assert_close(logits, from_torch(f"weights/evaluation of {name}", evaluate)["logits"])


@each_architecture
def test_round_trip_is_bit_exact(name):
    state_dict = random_state_dict(name)
    back = to_state_dict(from_state_dict(state_dict, ARCHITECTURES[name][0]))
    assert back.keys() == state_dict.keys()
    for key, array in state_dict.items():
        assert (back[key].dtype, back[key].shape) == (array.dtype, array.shape)
        assert back[key].tobytes() == array.tobytes(), key


def test_torch_accepts_weights_of_flax():
    model = ResNet(channels=(4, 8), blocks=(1, 2))
    variables = model.init(jax.random.key(0), images(), train=False)
    state_dict = to_state_dict(variables)

    def evaluate():
        with torch.no_grad():
            reference = load_state_dict(TorchResNet(channels=(4, 8), blocks=(1, 2)), state_dict)
            return {"logits": reference(to_torch_images(images()))}

    assert_close(
        model.apply(variables, images(), train=False), from_torch("weights/evaluation of Flax's", evaluate)["logits"]
    )
    back = from_state_dict(state_dict, dict(channels=(4, 8), blocks=(1, 2)))
    for collection in ("params", "batch_stats"):
        assert jax.tree.structure(back[collection]) == jax.tree.structure(variables[collection])
        jax.tree.map(np.testing.assert_array_equal, back[collection], variables[collection])


SMALL = dict(channels=(4, 8), blocks=(1, 1))


def small_state_dict():
    return random_state_dict("small", lambda name: TorchResNet(**SMALL))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_precisions_become_float32(dtype):
    state_dict = {
        key: array.astype(dtype) if array.dtype == np.float32 else array for key, array in small_state_dict().items()
    }
    back = to_state_dict(from_state_dict(state_dict, SMALL))
    np.testing.assert_array_equal(back["conv1.weight"], state_dict["conv1.weight"].astype(np.float32))


def test_misfit_lists_all_keys():
    state_dict = small_state_dict()
    del state_dict["bn1.weight"], state_dict["layer2.0.conv1.weight"]
    state_dict |= {"fc.bias": np.zeros(3), "extra": np.zeros(3)}
    state_dict["linear.weight"] = np.zeros((100, 8), np.float32)
    with pytest.raises(UserError) as raised:
        from_state_dict(state_dict, SMALL)
    assert str(raised.value).splitlines() == [
        "the weights do not fit the model",
        "2 missing: bn1.weight, layer2.0.conv1.weight",
        "2 unexpected: fc.bias, extra",
        "1 of another shape: linear.weight (100, 8), expected (10, 8)",
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_weights_beyond_float32_are_refused(value):
    state_dict = small_state_dict()
    state_dict["conv1.weight"] = np.full((4, 3, 3, 3), value)
    with pytest.raises(UserError, match="holds NaN or infinity"):
        from_state_dict(state_dict, SMALL)


def test_keys_follow_from_paths():
    assert torch_key(("params", "layer12_3", "conv2", "kernel")) == "layer12.3.conv2.weight"
    assert torch_key(("batch_stats", "layer1_0", "shortcut_bn", "var")) == "layer1.0.shortcut.1.running_var"


def test_prefix_of_all_keys_is_ignored():
    state_dict = small_state_dict()
    compiled = {f"_orig_mod.module.{key}": array for key, array in state_dict.items()}
    averaged = {"n_averaged": np.int64(5)} | {f"module.{key}": array for key, array in state_dict.items()}
    for wrapped in (compiled, averaged, {f"net.{key}": array for key, array in state_dict.items()}):
        assert from_state_dict(wrapped, SMALL).keys() == {"params", "batch_stats"}
    with pytest.raises(UserError, match=r"unexpected: module\.conv1\.weight"):
        from_state_dict(state_dict | {"module.conv1.weight": np.zeros((4, 3, 3, 3), np.float32)}, SMALL)


@pytest.mark.parametrize(
    ("fields", "message"), [({"chanels": (4,)}, "no such field"), ({"pooling": "abc"}, 'expected "global"')]
)
def test_invalid_models_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        from_state_dict({}, SMALL | fields)
