"""Image files of any kind as the network takes them: 32x32 pixels of red, green and blue."""

import pathlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxresnet.cifar10 import IMAGE_SHAPE
from jaxresnet.errors import UserError, one_line

# More pixels than any camera takes. A small file that claims more is meant to fill the memory.
MAX_PIXELS = 2**28

_SIZE = (IMAGE_SHAPE[1], IMAGE_SHAPE[0])
_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


def read_image(path: pathlib.Path) -> tuple[np.ndarray, list[str]]:
    """Decodes an image file.

    Returns:
        (32, 32, 3) uint8, and what had to be done for it beyond decoding, such as ``"resized to 32x32"``: nothing for
        an RGB image of 32x32 pixels.

    Raises:
        UserError: what is no image, a damaged one, or one that cannot be shown as RGB.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{path}: claims to have {image.width}x{image.height} pixels, too many to be decoded")
            notes = ["animated: its first frame is taken"] if getattr(image, "n_frames", 1) > 1 else []
            if image.mode in ("I", "F"):
                raise UserError(f"{path}: its pixels have 32 bits and no known range; save it with 8 bits a channel")
            return _to_network(image, notes)
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: is no image") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: claims to have too many pixels to be decoded") from error
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{path}: cannot be read as an image ({one_line(error)})") from error


def _to_network(image: Image.Image, notes: list[str]) -> tuple[np.ndarray, list[str]]:
    image = ImageOps.exif_transpose(image)  # as cameras say it is to be held
    if image.mode in _16_BIT:
        # Pillow would cut off at 255 what reaches 65535.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        notes = [*notes, "16-bit grey: scaled to 8 bits and taken as red, green and blue alike"]
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
