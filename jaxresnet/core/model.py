"""The paper's ResNet as a Flax module, with PyTorch's semantics where they differ from Flax's.

Each of these differences changes results:

- Padding is explicit and symmetric. XLA's "SAME" pads a stride-2 convolution on one side only.
- BatchNorm normalises with the biased variance of the batch but keeps a running average of the unbiased one.
- Weights and the linear layer's bias start uniform in +-1/sqrt(fan_in).

Submodules have the names that PyTorch implementations give them (``conv1``, ``bn1``, ``layer1_0``, ``linear``).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxresnet.system.errors import UserError

# variance_scaling draws from U(+-sqrt(3 * scale / fan_in)). With scale = 1/3 that is PyTorch's U(+-1/sqrt(fan_in)).
torch_kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""PyTorch's initialiser of a convolution's or a linear layer's weights: uniform in +-1/sqrt(fan_in)."""


def torch_bias_init(fan_in: int) -> Callable[..., jax.Array]:
    """Return PyTorch's initialiser of a linear layer's bias: uniform in +-1/sqrt(``fan_in``)."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class BatchNorm(nn.Module):
    """``torch.nn.BatchNorm2d`` over the last axis.

    Statistics are computed and kept in at least float32 whatever the compute dtype.

    Attributes:
        momentum: share of the old running value kept at each step. PyTorch calls 1 - 0.9 = 0.1 its momentum.
        epsilon: constant added to the variance, inside the root.
        dtype: dtype of the output.
        param_dtype: dtype of scale, bias and running statistics.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch features"], *, train: bool) -> Float[Array, "*batch features"]:
        """Normalise by the batch's statistics and update the running ones if ``train``, else by the running ones."""
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (features,), self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,), self.param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,), self.param_dtype)

        if train:
            y, mean, var = normalize(x, scale, bias, self.epsilon)
            if not self.is_initializing():
                count = x.size // features
                unbiased_var = var * (count / max(count - 1, 1))
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased_var
        else:
            scale = scale * jax.lax.rsqrt(running_var.value + self.epsilon)
            y = (x - running_mean.value) * scale + bias

        return y.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize(
    x: Float[Array, "*batch features"],
    scale: Float[Array, " features"],
    bias: Float[Array, " features"],
    epsilon: float,
) -> tuple[Float[Array, "*batch features"], Float[Array, " features"], Float[Array, " features"]]:
    """Normalise ``x`` over all axes but the last, then scale and shift it.

    The gradient is written out, so that the backward pass keeps no array of the size of ``x`` but ``x`` itself. With
    JAX's own derivative, a training step of the final model takes 1.25 times the memory on CPU. Forward-mode
    differentiation (``jax.jvp``) is not supported.

    Returns:
        The result, mean and biased variance, all in at least float32. No gradient flows through the statistics.
    """
    return _normalize_forward(x, scale, bias, epsilon)[0]


def _normalize_forward(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple[Any, Any]:
    x32, axes = _at_least_float32(x), tuple(range(x.ndim - 1))
    mean = jnp.mean(x32, axes)
    # E[x^2] - E[x]^2 takes one pass over memory. It can round below zero if a channel is constant.
    var = jnp.maximum(jnp.mean(x32 * x32, axes) - mean * mean, 0)
    inverse_std = jax.lax.rsqrt(var + epsilon)
    return ((x32 - mean) * (scale * inverse_std) + bias, mean, var), (x, scale, mean, inverse_std)


def _normalize_backward(epsilon: float, saved: Any, grads: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, mean, inverse_std = saved
    x32, grad, axes, count = _at_least_float32(x), grads[0], tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    grad_bias = jnp.sum(grad, axes)
    # The barrier hides that x - mean is computed twice. Otherwise XLA:CPU keeps it as another array of x's size.
    grad_scale = jnp.sum(grad * (x32 - jax.lax.optimization_barrier(mean)), axes) * inverse_std
    # With n = (x - mean) / std: dx = scale / std * (dy - mean(dy) - n * mean(dy * n)).
    slope = inverse_std * grad_scale / count
    grad_x = (grad - grad_bias / count - (x32 - mean) * slope) * (scale * inverse_std)
    return grad_x.astype(x.dtype), grad_scale, grad_bias


def _at_least_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


normalize.defvjp(_normalize_forward, _normalize_backward)


class BasicBlock(nn.Module):
    """Two convolutions and, with ``skips``, a shortcut. If the shape changes, the shortcut is a projection.

    Attributes:
        features: number of output channels.
        stride: stride of the first convolution and of the projection.
        kernel_size: F of the paper. Odd.
        shortcut_kernel_size: K of the paper. Odd.
        skips: False for a plain block, without the shortcut.
        conv: ``nn.Conv`` with initialiser and dtypes bound.
        norm: ``BatchNorm`` with dtypes bound.
        relu: activation function.
    """

    features: int
    stride: int
    kernel_size: int
    shortcut_kernel_size: int
    skips: bool
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    relu: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch h w features"]:
        """Compute the output of the block. ``train`` is passed to ``norm``."""

        def conv(kernel_size: int, stride: int, name: str) -> nn.Module:
            return self.conv(
                self.features, (kernel_size, kernel_size), strides=stride, padding=kernel_size // 2, name=name
            )

        shortcut = x
        if self.skips and (self.stride != 1 or x.shape[-1] != self.features):
            shortcut = conv(self.shortcut_kernel_size, self.stride, "shortcut_conv")(x)
            shortcut = self.norm(name="shortcut_bn")(shortcut, train=train)

        y = conv(self.kernel_size, self.stride, "conv1")(x)
        y = self.relu(self.norm(name="bn1")(y, train=train))
        y = conv(self.kernel_size, 1, "conv2")(y)
        y = self.norm(name="bn2")(y, train=train)
        return self.relu(y + shortcut if self.skips else y)


BLOCKS: dict[str, Callable[..., nn.Module]] = {"basic": BasicBlock}


class ResNet(nn.Module):
    """The paper's residual network: stem, stages of blocks, pooling, dropout, linear.

    Attributes:
        channels: C of the paper, one entry per stage. The first block of each stage after the first has stride 2.
        blocks: B of the paper, the number of blocks in each stage.
        kernel_size: F of the paper, the kernel size in the blocks. Odd.
        shortcut_kernel_size: K of the paper, the kernel size of the projections. Odd.
        stem_channels: output channels of the first convolution. ``None`` means ``channels[0]``.
        pooling: ``"global"``, or the window size of an average pooling. As in PyTorch's ``avg_pool2d``, the stride
            equals the window, and incomplete windows are dropped.
        skips: True for the paper's residual network, False for a plain one: the same without shortcuts.
        block: function that makes a block from the fields of ``BasicBlock``.
        dropout_rate: dropout rate between pooling and the linear layer, in [0, 1).
        num_classes: number of logits.
        frozen: stages, of ``"stem"``, ``"layer1"`` and so on, whose BatchNorm always uses its running statistics.
        dtype: compute dtype. Pooling and the linear layer run in at least float32.
        param_dtype: dtype of parameters and BatchNorm statistics.
        conv_general_dilated: function for convolutions, with the arguments of ``lax.conv_general_dilated``. Models of
            a config get that of ``kernels.convolution`` (see ``core.state``).
        relu: activation function. Models of a config get that of ``kernels.convolution`` too.
    """

    channels: Sequence[int] = (64, 128, 256)
    blocks: Sequence[int] = (4, 4, 3)
    kernel_size: int = 3
    shortcut_kernel_size: int = 1
    stem_channels: int | None = None
    pooling: str | int = "global"
    skips: bool = True
    block: Callable[..., nn.Module] = BasicBlock
    dropout_rate: float = 0.0
    num_classes: int = 10
    frozen: Sequence[str] = ()
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    conv_general_dilated: Callable[..., jax.Array] = jax.lax.conv_general_dilated
    relu: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch num_classes"]:
        """Compute logits in at least float32. ``train`` needs ``mutable=["batch_stats"]`` and a ``dropout`` rng."""
        self._check_fields()
        conv = functools.partial(
            nn.Conv,
            use_bias=False,
            kernel_init=torch_kernel_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            conv_general_dilated=self.conv_general_dilated,
        )
        norm = functools.partial(BatchNorm, dtype=self.dtype, param_dtype=self.param_dtype)

        x = conv(self.stem_channels or self.channels[0], (3, 3), padding=1, name="conv1")(x)
        x = self.relu(norm(name="bn1")(x, train=train and "stem" not in self.frozen))
        for stage, (features, num_blocks) in enumerate(zip(self.channels, self.blocks, strict=True)):
            for block in range(num_blocks):
                x = self.block(
                    features=features,
                    stride=2 if stage > 0 and block == 0 else 1,
                    kernel_size=self.kernel_size,
                    shortcut_kernel_size=self.shortcut_kernel_size,
                    skips=self.skips,
                    conv=conv,
                    norm=norm,
                    relu=self.relu,
                    name=f"layer{stage + 1}_{block}",
                )(x, train=train and f"layer{stage + 1}" not in self.frozen)

        # Two values for those who ask for the collection "intermediates", at no cost to others.
        self.sow("intermediates", "last_stage", x)
        head_dtype = jnp.promote_types(self.dtype, jnp.float32)
        x = self._pool(x.astype(head_dtype))
        # PyTorch flattens channels first. In this order its linear weights fit.
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        self.sow("intermediates", "features", x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return nn.Dense(
            self.num_classes,
            kernel_init=torch_kernel_init,
            bias_init=torch_bias_init(x.shape[-1]),
            dtype=head_dtype,
            param_dtype=self.param_dtype,
            name="linear",
        )(x)

    def _pool(self, x: jax.Array) -> jax.Array:
        if self.pooling == "global":
            return jnp.mean(x, axis=(1, 2), keepdims=True)
        height, width = x.shape[1:3]
        if not isinstance(self.pooling, int) or not 0 < self.pooling <= min(height, width):
            expected = f'"global" or the side of a window no larger than the {height}x{width} map that it pools'
            raise UserError(f"model.pooling={self.pooling!r}: expected {expected}")
        window = (self.pooling, self.pooling)
        return nn.avg_pool(x, window_shape=window, strides=window)

    def _check_fields(self) -> None:
        """Check what the ranges of single fields in a config do not say."""
        if not self.channels or len(self.blocks) != len(self.channels):
            raise UserError(f"model.channels={self.channels}, model.blocks={self.blocks}: expected one entry per stage")
        for field in ("kernel_size", "shortcut_kernel_size"):
            if getattr(self, field) % 2 == 0:
                expected = "an odd number, because odd sizes keep the map's size at stride 1"
                raise UserError(f"model.{field}={getattr(self, field)}: expected {expected}")


def count_parameters(params: Any) -> int:
    """Count the scalars in a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
