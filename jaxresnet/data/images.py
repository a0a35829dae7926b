"""Conversion of image files of any kind to the network's input: 32x32 pixels of red, green and blue."""

import functools
import os
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxresnet.data.arrays import IMAGE_SHAPE
from jaxresnet.system.errors import UserError, one_line

# A small file can claim enough pixels to fill the memory. JPEGs may be larger, as they are decoded at reduced size.
MAX_PIXELS = 50_000_000

# An image file's path, a PIL image, or pixels (height, width, 3) uint8.
ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray

_SIZE = (IMAGE_SHAPE[1], IMAGE_SHAPE[0])
_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
# Pillow runs other programs to read these, or cannot read them on every system.
_NOT_READ = ("EPS", "WMF")


def read_images(files: Sequence[pathlib.Path]) -> Iterator[tuple[np.ndarray, list[str]] | UserError]:
    """Decode image files in several threads, and yield in their order what ``read_image`` returns or raises."""
    with ThreadPoolExecutor(4) as pool:
        for start in range(0, len(files), 256):  # a bound for what is decoded ahead
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's are redundant: read_image has notes and limits.
                decoded = list(pool.map(_read_or_error, files[start : start + 256]))
            yield from decoded


def _read_or_error(path: pathlib.Path) -> tuple[np.ndarray, list[str]] | UserError:
    try:
        return read_image(path)
    except UserError as error:
        return error


def read_image(path: pathlib.Path) -> tuple[np.ndarray, list[str]]:
    """Decode an image file.

    Returns:
        Pixels (32, 32, 3) uint8, and notes on conversions such as ``"resized to 32x32"``. An RGB image of 32x32 pixels
        needs none.

    Raises:
        UserError: the file is not an image, is damaged, has too many pixels, or cannot be shown as RGB.
    """
    try:
        with Image.open(path, formats=_formats()) as image:
            image.draft("RGB", (4 * _SIZE[0], 4 * _SIZE[1]))  # reduces the decoding of JPEGs to what is needed
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{path}: has {image.width}x{image.height} pixels, too many to be decoded")
            notes = ["animated: only the first frame is used"] if _is_animated(image) else []
            return _to_network(image, notes)
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: is not an image") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: has too many pixels to be decoded") from error
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{path}: cannot be read as an image ({one_line(error)})") from error


def to_pixels(images: ImageLike | Sequence[ImageLike]) -> np.ndarray:
    """Convert one image or a sequence of images to pixels (size, 32, 32, 3) uint8.

    Raises:
        UserError: something that is no image, or a file that cannot be read.
    """
    if isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.shape[1:] == IMAGE_SHAPE:
        return images
    if isinstance(images, str | os.PathLike | Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4):
        images = [images]
    pixels = [_one_to_pixels(image) for image in images]
    return np.stack(pixels) if pixels else np.zeros((0, *IMAGE_SHAPE), np.uint8)


def _one_to_pixels(image: ImageLike) -> np.ndarray:
    if isinstance(image, str | os.PathLike):
        return read_image(pathlib.Path(image))[0]
    if isinstance(image, Image.Image):
        try:
            return _to_network(image, [])[0]
        except Exception as error:  # a truncated file can raise anything
            raise UserError(f"an image of mode {image.mode} cannot be read ({one_line(error)})") from error
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3 or not array.size:
        raise UserError(
            f"an image is {array.dtype} of shape {array.shape}: expected uint8 of shape (height, width, 3), a PIL "
            "image or a path"
        )
    return array if array.shape == IMAGE_SHAPE else _to_network(Image.fromarray(array), [])[0]


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.OPEN if name not in _NOT_READ)


def _is_animated(image: Image.Image) -> bool:
    if image.format == "MPO":  # a photograph with an embedded preview
        return False
    try:
        return getattr(image, "is_animated", False)
    except Exception:  # Damage beyond the first frame does no harm.
        return True


def _to_network(image: Image.Image, notes: list[str]) -> tuple[np.ndarray, list[str]]:
    image = ImageOps.exif_transpose(image)  # rotates a photograph as its camera recorded
    if image.mode in _16_BIT or image.mode == "I":
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError("its pixels have 32 bits and no known range; save it with 8 bits per channel")
        # Pillow would clip 16-bit values at 255.
        image = Image.fromarray((pixels >> 8).astype(np.uint8))
        notes = [*notes, "16-bit grey: scaled to 8 bits and copied to red, green and blue"]
    elif image.mode == "F":
        raise ValueError("its pixels are fractions of no known range; save it with 8 bits per channel")
    elif image.mode in ("1", "L"):
        notes = [*notes, "grey: copied to red, green and blue"]
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
        notes = [*notes, "transparent: put on a white background"]
    if image.mode != "RGB":
        image = image.convert("RGB")
    if image.size != _SIZE:
        square = "" if image.width == image.height else " from its central square"
        # Cropped, not stretched: the network was trained on true proportions.
        image = ImageOps.fit(image, _SIZE, Image.Resampling.BICUBIC)
        notes = [*notes, f"resized to {_SIZE[0]}x{_SIZE[1]}{square}"]
    return np.array(image), notes
