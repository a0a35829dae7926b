"""The devices of the ambient mesh (``core.programs.ambient``), and computations that they divide by images."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array, Float

Images = Float[Array, "batch height width channels"]
Kernel = Float[Array, "height width channels features"]


def platform() -> str:
    """Return the platform of the mesh's devices, such as ``"cpu"``, ``"gpu"`` or ``"tpu"``.

    A program that is compiled for devices that are not here is therefore the one that would be trained there. Without a
    mesh, the platform is that of JAX's default devices.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def divides(batch: int) -> bool:
    """Return True if each device gets the same number of images.

    Without a mesh, it is unknown how several devices divide a batch.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return jax.device_count() == 1 if mesh.empty else batch % mesh.size == 0


def on_each_device(function: Callable[[Images], Images]) -> Callable[[Images], Images]:
    """Make each device compute ``function`` of its own images."""
    mesh, divided, _ = _shardings()
    return _shard(function, mesh, (divided,), divided)


def convolution(
    forward: Callable[[Images, Kernel], Images], backward: Callable[[Images, Kernel, Images], tuple[Images, Kernel]]
) -> Callable[[Images, Kernel], Images]:
    """Make a differentiable convolution of images that are divided over the devices.

    Args:
        forward: (input, kernel) -> output, for one device's images.
        backward: (input, kernel, output gradient) -> (input gradient, kernel gradient), for one device's images. The
            kernel gradient may have a wider type than the kernel. It is summed over the devices and then rounded.
    """

    @jax.custom_vjp
    def convolve(x: Images, kernel: Kernel) -> Images:
        mesh, divided, whole = _shardings()
        return _shard(forward, mesh, (divided, whole), divided)(x, kernel)

    def gradients(saved: tuple[Images, Kernel], grad: Images) -> tuple[Images, Kernel]:
        mesh, divided, whole = _shardings()

        def of_all_devices(x: Images, kernel: Kernel, grad: Images) -> tuple[Images, Kernel]:
            dx, dkernel = backward(x, kernel, grad)
            dkernel = dkernel if mesh.size <= 1 else lax.psum(dkernel, mesh.axis_names)
            return dx, dkernel.astype(kernel.dtype)

        return _shard(of_all_devices, mesh, (divided, whole, divided), (divided, whole))(*saved, grad)

    convolve.defvjp(lambda x, kernel: (convolve(x, kernel), (x, kernel)), gradients)
    return convolve


def _shardings() -> tuple[AbstractMesh, PartitionSpec, PartitionSpec]:
    """Return the ambient mesh and the partition specs of images and kernels."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh, PartitionSpec(mesh.axis_names), PartitionSpec()


def _shard(function: Callable[..., Any], mesh: AbstractMesh, in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """Make each device compute ``function`` of its own share. With one device, return ``function`` itself."""
    if mesh.size <= 1:
        return function
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)
