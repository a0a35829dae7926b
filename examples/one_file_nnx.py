"""Train the same network as one_file.py in Flax NNX, whose modules hold their own parameters.

    python examples/one_file_nnx.py cifar10.npz [epochs]

What does not depend on the API is imported from one_file.py. NNX derives random numbers in another way than linen, so
runs of the two files start from other parameters and drop other features.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import one_file
import optax
from flax import nnx

conv = functools.partial(nnx.Conv, use_bias=False, kernel_init=one_file.kernel_init)


class BatchNorm(nnx.Module):
    """Normalize as torch.nn.BatchNorm2d, whose running variance is unbiased. That of nnx.BatchNorm is biased."""

    def __init__(self, features):
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))

    def __call__(self, x, train):
        if not train:
            return one_file.normalize(x, self.mean[...], self.var[...], self.scale[...], self.bias[...])
        count = x.size // x.shape[-1]
        mean = jnp.mean(x, (0, 1, 2))
        var = jnp.maximum(jnp.mean(x * x, (0, 1, 2)) - mean * mean, 0)  # rounding can take the difference below 0
        self.mean[...] = 0.9 * self.mean[...] + 0.1 * mean
        self.var[...] = 0.9 * self.var[...] + 0.1 * (var * (count / (count - 1)))
        return one_file.normalize(x, mean, var, self.scale[...], self.bias[...])


class Block(nnx.Module):
    """Add two convolutions to a shortcut, which is a projection if the shape changes."""

    def __init__(self, channels, features, stride, rngs):
        self.conv1 = conv(channels, features, (3, 3), stride, padding=1, rngs=rngs)
        self.bn1 = BatchNorm(features)
        self.conv2 = conv(features, features, (3, 3), padding=1, rngs=rngs)
        self.bn2 = BatchNorm(features)
        self.has_projection = stride != 1 or channels != features
        if self.has_projection:
            self.shortcut_conv = conv(channels, features, (1, 1), stride, padding=0, rngs=rngs)
            self.shortcut_bn = BatchNorm(features)

    def __call__(self, x, train):
        shortcut = self.shortcut_bn(self.shortcut_conv(x), train) if self.has_projection else x
        y = nnx.relu(self.bn1(self.conv1(x), train))
        return nnx.relu(self.bn2(self.conv2(y), train) + shortcut)


class ResNet(nnx.Module):
    """Compute logits: a convolution, stages of blocks, global pooling, dropout, a linear layer."""

    def __init__(self, rngs, channels=one_file.CHANNELS, blocks=one_file.BLOCKS):
        width = channels[0]
        self.conv1 = conv(3, width, (3, 3), padding=1, rngs=rngs)
        self.bn1 = BatchNorm(width)
        self.blocks = nnx.List()
        for stage, (features, num_blocks) in enumerate(zip(channels, blocks, strict=True)):
            for block in range(num_blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                self.blocks.append(Block(width, features, stride, rngs))
                width = features
        self.dropout = nnx.Dropout(one_file.DROPOUT_RATE)
        bias_init = functools.partial(jax.random.uniform, minval=-(width**-0.5), maxval=width**-0.5)
        self.linear = nnx.Linear(
            width, one_file.NUM_CLASSES, kernel_init=one_file.kernel_init, bias_init=bias_init, rngs=rngs
        )

    def __call__(self, x, train, dropout_rng=None):
        x = nnx.relu(self.bn1(self.conv1(x), train))
        for block in self.blocks:
            x = block(x, train)
        x = self.dropout(x.mean((1, 2)), deterministic=not train, rngs=dropout_rng)
        return self.linear(x)


@nnx.jit
def train_step(model, optimizer, rng, images, labels):
    """Take a step of gradient descent, which changes model and optimizer. Return the sum of the losses before it."""
    augment_rng, dropout_rng = jax.random.split(jax.random.fold_in(rng, optimizer.step[...]))
    images = one_file.augment(augment_rng, images)

    def loss_fn(model):
        logits = model(images, train=True, dropout_rng=dropout_rng)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), losses.sum()

    grads, loss_sum = nnx.grad(loss_fn, has_aux=True)(model)
    optimizer.update(model, grads)
    return loss_sum


@nnx.jit
def count_correct(model, images, labels):
    """Count the images whose label has the highest logit."""
    return jnp.sum(jnp.argmax(model(images / 255.0, train=False), -1) == labels)


def main(path, num_epochs, model, batch_size=one_file.BATCH_SIZE, seed=0):
    """Train a model. After each epoch, print its loss, the test accuracy and the seconds since the start."""
    start, (images, labels, test_images, test_labels) = time.monotonic(), one_file.load(path)
    _, step_rng, order_rng = jax.random.split(jax.random.key(seed), 3)
    tx = one_file.sgd(num_epochs, steps_per_epoch=-(-len(images) // batch_size))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    for epoch in range(num_epochs):
        order = jax.random.permutation(jax.random.fold_in(order_rng, epoch), len(images))
        loss_sum, correct = 0.0, 0
        for batch in one_file.batches(np.asarray(order), batch_size):
            loss_sum += train_step(model, optimizer, step_rng, images[batch], labels[batch])
        for batch in one_file.batches(np.arange(len(test_images)), 1000):
            correct += count_correct(model, test_images[batch], test_labels[batch])
        loss, accuracy = loss_sum / len(images), 100 * correct / len(test_images)
        seconds = time.monotonic() - start
        print(f"epoch {epoch + 1}/{num_epochs}: loss {loss:.4f}, test accuracy {accuracy:.2f}%, {seconds:.0f} s")


if __name__ == "__main__":
    arguments = one_file.parse_arguments()
    main(arguments.path, arguments.epochs, ResNet(nnx.Rngs(0)))
