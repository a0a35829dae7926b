"""Image files of any kind as the network takes them: 32x32 pixels of red, green and blue."""

import functools
import pathlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxresnet.cifar10 import IMAGE_SHAPE
from jaxresnet.errors import UserError, one_line

# A small file that claims more is meant to fill the memory. JPEGs may have more: they are decoded at an eighth of it.
MAX_PIXELS = 50_000_000

_SIZE = (IMAGE_SHAPE[1], IMAGE_SHAPE[0])
_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
# Pillow reads these by running other programs, or not on every system.
_NOT_READ = ("EPS", "WMF")


def read_image(path: pathlib.Path) -> tuple[np.ndarray, list[str]]:
    """Decodes an image file.

    Returns:
        (32, 32, 3) uint8, and what had to be done for it beyond decoding, such as ``"resized to 32x32"``: nothing for
        an RGB image of 32x32 pixels.

    Raises:
        UserError: what is no image, a damaged one, or one that cannot be shown as RGB.
    """
    try:
        with Image.open(path, formats=_formats()) as image:
            image.draft("RGB", (4 * _SIZE[0], 4 * _SIZE[1]))  # of JPEGs, no more is decoded than is needed
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{path}: has {image.width}x{image.height} pixels, too many to be decoded")
            notes = ["animated: its first frame is taken"] if _is_animated(image) else []
            return _to_network(image, notes)
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: is no image") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: has too many pixels to be decoded") from error
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{path}: cannot be read as an image ({one_line(error)})") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.OPEN if name not in _NOT_READ)


def _is_animated(image: Image.Image) -> bool:
    if image.format == "MPO":  # a photograph with a preview of itself
        return False
    try:
        return getattr(image, "is_animated", False)
    except Exception:  # damaged beyond the first frame, which is all that is wanted
        return True


def _to_network(image: Image.Image, notes: list[str]) -> tuple[np.ndarray, list[str]]:
    image = ImageOps.exif_transpose(image)  # as cameras say it is to be held
    if image.mode in _16_BIT or image.mode == "I":
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError("its pixels have 32 bits and no known range; save it with 8 bits a channel")
        # Pillow would cut off at 255 what reaches 65535.
        image = Image.fromarray((pixels >> 8).astype(np.uint8))
        notes = [*notes, "16-bit grey: scaled to 8 bits and taken as red, green and blue alike"]
    elif image.mode == "F":
        raise ValueError("its pixels are fractions of no known range; save it with 8 bits a channel")
    elif image.mode in ("1", "L"):
        notes = [*notes, "grey: taken as red, green and blue alike"]
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
        notes = [*notes, "transparent: laid on white"]
    if image.mode != "RGB":
        image = image.convert("RGB")
    if image.size != _SIZE:
        square = "" if image.width == image.height else " from its central square"
        # The network knows things in their true proportions.
        image = ImageOps.fit(image, _SIZE, Image.Resampling.BICUBIC)
        notes = [*notes, f"resized to {_SIZE[0]}x{_SIZE[1]}{square}"]
    return np.array(image), notes
