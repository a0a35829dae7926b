"""The devices of the ambient mesh (``core.programs.ambient``), and computations that they divide by images."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
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


def conv_general_dilated(
    lhs: jax.Array, rhs: jax.Array, window_strides: Sequence[int], padding: Any, **options: Any
) -> jax.Array:
    """Compute ``lax.conv_general_dilated`` with XLA.

    With a bfloat16 kernel, XLA would sum the kernel's gradient over several GPUs or TPUs in bfloat16. This sums it in
    float32.
    """
    if platform() == "cpu" or jax.sharding.get_abstract_mesh().size <= 1 or lhs.dtype != jnp.bfloat16:
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)

    def forward(x: Images, kernel: Kernel) -> Images:
        return lax.conv_general_dilated(x, kernel, window_strides, padding, **options)

    def backward(x: Images, kernel: Kernel, grad: Images, dtype: Any = lhs.dtype) -> tuple[Images, Kernel]:
        (dx,) = jax.linear_transpose(lambda x: forward(x, kernel), x)(grad)
        x, kernel, grad = (array.astype(dtype) for array in (x, kernel, grad))
        # Not preferred_element_type=float32: for that, GPUs convert all images to float32 first.
        (dkernel,) = jax.linear_transpose(lambda kernel: forward(x, kernel), kernel)(grad)
        return dx, dkernel.astype(jnp.float32)

    def backward_of_all(saved: tuple[Images, Kernel], grad: Images) -> tuple[Images, Kernel]:
        dx, dkernel = backward(*saved, grad, dtype=jnp.float32)
        return dx, dkernel.astype(rhs.dtype)

    if divides(len(lhs)):
        return convolution(forward, backward)(lhs, rhs)
    # The compiler pads a batch that does not divide, and sums its gradients in the type that they are computed in.
    convolve = jax.custom_vjp(forward)
    convolve.defvjp(lambda x, kernel: (forward(x, kernel), (x, kernel)), backward_of_all)
    return convolve(lhs, rhs)


def _shardings() -> tuple[AbstractMesh, PartitionSpec, PartitionSpec]:
    """Return the ambient mesh and the partition specs of images and kernels."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh, PartitionSpec(mesh.axis_names), PartitionSpec()


def _shard(function: Callable[..., Any], mesh: AbstractMesh, in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """Make each device compute ``function`` of its own share. With one device, return ``function`` itself."""
    if mesh.size <= 1:
        return function
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)
