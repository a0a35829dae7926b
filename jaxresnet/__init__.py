"""A small, exact, fast JAX training project: the ResNet of Chang and Shong on CIFAR-10."""

__version__ = "0.1.0"
