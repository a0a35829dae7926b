"""Train the paper's final model on CIFAR-10, in one file to read from top to bottom.

    python examples/one_file.py cifar10.npz [epochs]

The paper (Chang and Shong) reports 96.01% test accuracy after 200 epochs. This file imports nothing of the package. If
XLA computes the convolutions of both, one operation at a time, a small network trained by either on CPU has the same
parameters, to the last bit: see tests/test_examples.py.
"""

import argparse
import functools
import sys
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state

CHANNELS, BLOCKS, DROPOUT_RATE, NUM_CLASSES = (64, 128, 256), (4, 4, 3), 0.4, 10
NUM_EPOCHS, BATCH_SIZE, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 200, 128, 0.1, 0.9, 5e-4
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")

# PyTorch draws kernels and biases from U(-b, b) with b = 1/sqrt(fan_in). Flax's defaults differ.
kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
conv = functools.partial(nn.Conv, use_bias=False, kernel_init=kernel_init)


@jax.custom_vjp
def normalize(x, mean, var, scale, bias):
    """Normalize, scale and shift each channel."""
    return (x - mean) * (scale * jax.lax.rsqrt(var + 1e-5)) + bias


def normalize_backward(inputs, grad):
    """Compute the gradients by hand. On CPU, a step with JAX's own takes half as much memory again."""
    x, mean, var, scale, _ = inputs
    count, inverse_std = x.size // x.shape[-1], jax.lax.rsqrt(var + 1e-5)
    grad_bias = jnp.sum(grad, (0, 1, 2))
    # Without the barrier, XLA notices that x - mean is needed twice and stores it.
    grad_scale = jnp.sum(grad * (x - jax.lax.optimization_barrier(mean)), (0, 1, 2)) * inverse_std
    # grad_x includes what reaches x through mean and var. These get no gradients of their own.
    grad_x = (grad - grad_bias / count - (x - mean) * (inverse_std * grad_scale / count)) * (scale * inverse_std)
    return grad_x, None, None, grad_scale, grad_bias


normalize.defvjp(lambda *inputs: (normalize(*inputs), inputs), normalize_backward)


class BatchNorm(nn.Module):
    """Normalize as torch.nn.BatchNorm2d, whose running variance is unbiased. That of flax.linen.BatchNorm is biased."""

    @nn.compact
    def __call__(self, x, train):
        shape, count = x.shape[-1:], x.size // x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        if not train:
            return normalize(x, running_mean.value, running_var.value, scale, bias)
        mean = jnp.mean(x, (0, 1, 2))
        var = jnp.maximum(jnp.mean(x * x, (0, 1, 2)) - mean * mean, 0)  # rounding can take the difference below 0
        running_mean.value = 0.9 * running_mean.value + 0.1 * mean
        running_var.value = 0.9 * running_var.value + 0.1 * (var * (count / (count - 1)))
        return normalize(x, mean, var, scale, bias)


class Block(nn.Module):
    """Add two convolutions to a shortcut, which is a projection if the shape changes."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x, train):
        shortcut = x
        if self.stride != 1 or x.shape[-1] != self.features:
            shortcut = conv(self.features, (1, 1), self.stride, padding=0, name="shortcut_conv")(x)
            shortcut = BatchNorm(name="shortcut_bn")(shortcut, train)
        # Padding is explicit because "SAME" pads one side only at stride 2.
        y = conv(self.features, (3, 3), self.stride, padding=1, name="conv1")(x)
        y = nn.relu(BatchNorm(name="bn1")(y, train))
        y = conv(self.features, (3, 3), padding=1, name="conv2")(y)
        return nn.relu(BatchNorm(name="bn2")(y, train) + shortcut)


class ResNet(nn.Module):
    """Compute logits: a convolution, stages of blocks, global pooling, dropout, a linear layer."""

    channels: tuple[int, ...] = CHANNELS
    blocks: tuple[int, ...] = BLOCKS

    @nn.compact
    def __call__(self, x, train):
        x = conv(self.channels[0], (3, 3), padding=1, name="conv1")(x)
        x = nn.relu(BatchNorm(name="bn1")(x, train))
        for stage, (features, num_blocks) in enumerate(zip(self.channels, self.blocks, strict=True)):
            for block in range(num_blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                x = Block(features, stride, name=f"layer{stage + 1}_{block}")(x, train)
        x = nn.Dropout(DROPOUT_RATE, deterministic=not train)(x.mean((1, 2)))
        bias_init = functools.partial(jax.random.uniform, minval=-(x.shape[-1] ** -0.5), maxval=x.shape[-1] ** -0.5)
        return nn.Dense(NUM_CLASSES, kernel_init=kernel_init, bias_init=bias_init, name="linear")(x)


def augment(rng, images):
    """Crop each image at random from itself padded by 4 zeros, mirror it with probability 1/2, scale it to [0, 1]."""
    crop_rng, flip_rng = jax.random.split(rng)
    offsets = jax.random.randint(crop_rng, (len(images), 2), 0, 9)
    mirrored = jax.random.bernoulli(flip_rng, 0.5, (len(images), 1, 1, 1))
    padded = jnp.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    images = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (*at, 0), images.shape[1:]))(padded, offsets)
    return jnp.where(mirrored, images[:, :, ::-1], images) / 255.0


def sgd(num_epochs, steps_per_epoch):
    """Create PyTorch's SGD, which adds the decay to the gradient, with a cosine that moves once per epoch.

    Here the rates are part of the program. The package hands each step's rate to its program as data.
    """
    rates = jnp.asarray(LEARNING_RATE * (1 + np.cos(np.pi * np.arange(num_epochs) / num_epochs)) / 2)
    schedule = optax.scale_by_learning_rate(lambda step: rates[step // steps_per_epoch])
    return optax.chain(optax.add_decayed_weights(WEIGHT_DECAY), optax.trace(MOMENTUM), schedule)


class TrainState(train_state.TrainState):
    """Add BatchNorm's running statistics and the key of all steps to Flax's step, parameters and optimizer."""

    batch_stats: dict
    rng: jax.Array


@functools.partial(jax.jit, donate_argnums=0)
def train_step(state, images, labels):
    """Take a step of gradient descent. Return the new state and the sum of the losses before the step."""
    augment_rng, dropout_rng = jax.random.split(jax.random.fold_in(state.rng, state.step))
    images = augment(augment_rng, images)

    def loss_fn(params):
        variables, rngs = {"params": params, "batch_stats": state.batch_stats}, {"dropout": dropout_rng}
        logits, updates = state.apply_fn(variables, images, train=True, rngs=rngs, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), (losses.sum(), updates["batch_stats"])

    grads, (loss_sum, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    return state.apply_gradients(grads=grads, batch_stats=batch_stats), loss_sum


@jax.jit
def count_correct(state, images, labels):
    """Count the images whose label has the highest logit."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = state.apply_fn(variables, images / 255.0, train=False)
    return jnp.sum(jnp.argmax(logits, -1) == labels)


def load(path):
    """Read the four arrays of an .npz file, or exit with one line."""
    try:
        with np.load(path) as arrays:
            return [arrays[name] for name in ARRAYS]
    except Exception as error:  # a damaged file can raise anything
        sys.exit(f"cannot read {path} ({type(error).__name__}). Expected an .npz file with {', '.join(ARRAYS)}.")


def batches(indices, batch_size):
    """Split indices into batches. The last one holds the rest."""
    return np.split(indices, range(batch_size, len(indices), batch_size))


def main(path, num_epochs, model, batch_size=BATCH_SIZE, seed=0):
    """Train a model. After each epoch, print its loss, the test accuracy and the seconds since the start."""
    start, (images, labels, test_images, test_labels) = time.monotonic(), load(path)
    init_rng, step_rng, order_rng = jax.random.split(jax.random.key(seed), 3)
    variables = model.lazy_init(init_rng, jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32), train=False)
    tx = sgd(num_epochs, steps_per_epoch=-(-len(images) // batch_size))
    state = TrainState.create(apply_fn=model.apply, tx=tx, rng=step_rng, **variables)
    for epoch in range(num_epochs):
        order = jax.random.permutation(jax.random.fold_in(order_rng, epoch), len(images))
        loss_sum, correct = 0.0, 0
        for batch in batches(np.asarray(order), batch_size):
            state, batch_loss_sum = train_step(state, images[batch], labels[batch])
            loss_sum += batch_loss_sum
        for batch in batches(np.arange(len(test_images)), 1000):
            correct += count_correct(state, test_images[batch], test_labels[batch])
        loss, accuracy = loss_sum / len(images), 100 * correct / len(test_images)
        seconds = time.monotonic() - start
        print(f"epoch {epoch + 1}/{num_epochs}: loss {loss:.4f}, test accuracy {accuracy:.2f}%, {seconds:.0f} s")


def parse_arguments():
    """Read the command line: ``path`` and ``epochs``."""
    parser = argparse.ArgumentParser(description="Train the paper's final model on CIFAR-10.")
    parser.add_argument("path", help=f"an .npz file with {', '.join(ARRAYS)}")
    parser.add_argument("epochs", nargs="?", type=int, default=NUM_EPOCHS)
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parse_arguments()
    main(arguments.path, arguments.epochs, ResNet())
