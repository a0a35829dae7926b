"""Image files of any kind, alone or in folders, as squares of uint8 pixels, which ``core.augment`` then normalises."""

import contextlib
import functools
import itertools
import os
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import ExifTags, Image, ImageOps, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError
from tqdm import tqdm

from jaxresnet.data.cifar import IMAGE_SIZE, Arrays
from jaxresnet.system.errors import UserError, one_line

# A small file can claim enough pixels to fill the memory. JPEGs may be larger, as they are decoded at reduced size.
MAX_PIXELS = 50_000_000
SPLITS = ("train", "test")  # folders of a data set
TEST_SHARE = 0.2  # of the images of each class, where they are drawn

# An image file's path, a PIL image, or pixels (height, width, 3) uint8.
ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray

# How to turn a photograph upright, by the orientation that its camera recorded.
_TURNS = dict(zip(range(2, 9), map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), strict=True))


def load_folders(
    folder: pathlib.Path, size: int = IMAGE_SIZE, test: int | Sequence[str] = 0
) -> tuple[Arrays, tuple[str, ...], tuple[str, ...] | None]:
    """Read the images that ``find_images`` finds. Others than squares of ``size`` pixels are cropped and resized.

    Returns:
        The arrays in ``ARRAYS``, the class names, and the test files if they were drawn.

    Raises:
        UserError: as ``find_images``, or a file cannot be read as an image.
    """
    splits, drawn = find_images(folder, test)
    arrays: Arrays = {}
    for split, files in splits.items():
        labels = [label for label, name in enumerate(files) for _ in files[name]]
        arrays[f"{split}_labels"] = np.array(labels, np.int32)
        images = read_images([*itertools.chain.from_iterable(files.values())], size)
        pixels = []
        for image in tqdm(images, f"reading {split} images", len(labels), leave=False, disable=None):
            if isinstance(image, UserError):
                raise UserError(f"{image}; training skips no files: fix or remove it") from image
            pixels.append(image[0])
        arrays[f"{split}_images"] = np.stack(pixels)
    return arrays, tuple(splits["train"]), drawn


def find_images(
    folder: pathlib.Path, test: int | Sequence[str] = 0
) -> tuple[dict[str, dict[str, list[pathlib.Path]]], tuple[str, ...] | None]:
    """List the files of a folder such as ``train/cat/1.png``, ``train/dog/2.jpg``, ``test/cat/3.png``.

    Without ``train/`` and ``test/``, as in ``cat/1.png``, test images are drawn: ``TEST_SHARE`` of each class, at least
    one. Classes and files are sorted by name. Names that begin with a dot are left out.

    Args:
        folder: folder of the data set.
        test: seed of that draw, or the files that an earlier one has drawn.

    Returns:
        The files of each split by class, and those that were drawn, such as ``"cat/1.png"``, or None.

    Raises:
        UserError: the splits differ in their classes, there are fewer than two, names differ by case only, a class has
            no images for a split, or a file that was drawn is gone.
    """
    places = [folder / split for split in SPLITS if (folder / split).is_dir()] or [folder]
    if len(places) == 1 and places != [folder]:
        (missing,) = {*SPLITS} - {places[0].name}
        raise UserError(f"{folder} holds no {missing}/; images are needed in train/ and in test/")
    classes, others = ([path.name for path in _inside(place)] for place in (places[0], places[-1]))
    if only := {*classes} ^ {*others}:
        there, other = SPLITS if min(only) in classes else SPLITS[::-1]
        raise UserError(f"{folder}: {min(only)!r} is in {there}/ and not in {other}/; every class needs images in both")
    if len(classes) < 2:
        raise UserError(f"{places[0]}: expected a folder of images for each of two or more classes, found {classes}")
    for one, twin in itertools.pairwise(sorted(classes, key=str.casefold)):
        if one.casefold() == twin.casefold():
            raise UserError(f"{places[0]}: the classes {one!r} and {twin!r} differ by case only; rename or merge them")
    found, drawn = [{name: _files_of_class(place / name) for name in classes} for place in places], None
    if len(found) == 1:
        (files,) = found
        chosen = _draw(files, test) if isinstance(test, int) else {folder / name for name in test}
        if gone := chosen.difference(*files.values()):
            raise UserError(f"{min(gone)} is gone, which is a test image of this run; put it back")
        found = [
            {name: [file for file in files[name] if (file in chosen) == is_test] for name in files}
            for is_test in (0, 1)
        ]
        drawn = tuple(sorted(file.relative_to(folder).as_posix() for file in chosen))
    return dict(zip(SPLITS, found, strict=True)), drawn


def _draw(found: dict[str, list[pathlib.Path]], seed: int) -> set[pathlib.Path]:
    drawn = set()
    for files in found.values():
        if len(files) < 2:
            raise UserError(f"{files[0].parent} holds one image only; a class needs one to train on and one to test on")
        # RandomState's stream is frozen by NumPy's compatibility policy; default_rng's is not.
        order = np.random.RandomState(seed).permutation(len(files))
        drawn |= {files[at] for at in order[: max(1, round(TEST_SHARE * len(files)))]}
    return drawn


def holds_classes(folder: pathlib.Path) -> bool:
    """Return True if a folder in ``folder`` holds a file that is named like an image."""
    endings = Image.registered_extensions()
    return any(file.suffix.lower() in endings for path in _inside(folder) if path.is_dir() for file in _inside(path))


def _inside(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _files_of_class(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} is in no class; put it into the folder of its class, or remove it")
    files = _inside(folder)
    for path in files:
        if not path.is_file():  # a folder, or a pipe, which would be read without end
            raise UserError(f"{path} is not a file; put images straight into {folder}, and remove it")
    if not files:
        raise UserError(f"{folder} holds no images; every class needs some to train on and to test on")
    return files


def read_images(
    files: Sequence[pathlib.Path], size: int = IMAGE_SIZE
) -> Iterator[tuple[np.ndarray, list[str]] | UserError]:
    """Decode image files in several threads, and yield in their order what ``read_image`` returns or raises."""
    with ThreadPoolExecutor(4) as pool:
        for start in range(0, len(files), 256):  # a bound for what is decoded ahead
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's are redundant: read_image has notes and limits.
                decoded = list(pool.map(functools.partial(_read_or_error, size=size), files[start : start + 256]))
            yield from decoded


def _read_or_error(path: pathlib.Path, size: int) -> tuple[np.ndarray, list[str]] | UserError:
    try:
        return read_image(path, size)
    except UserError as error:
        return error


def read_image(path: pathlib.Path, size: int = IMAGE_SIZE) -> tuple[np.ndarray, list[str]]:
    """Decode an image file.

    Returns:
        Pixels (size, size, 3) uint8, and notes on conversions such as ``"resized to 32x32"``.

    Raises:
        UserError: the file is not an image, is damaged, has too many pixels, or cannot be shown as RGB.
    """
    try:
        with _open(path) as image:
            width, height = image.size
            image.draft("RGB", (4 * size, 4 * size))  # reduces the decoding of JPEGs to what is needed
            if not image.info.get("progressive"):  # which are decoded whole before they are reduced
                width, height = image.size
            if width * height > MAX_PIXELS:
                raise ValueError(f"{width}x{height} pixels are too many")
            # A phone's MPO is a photograph with an embedded preview.
            animated = getattr(image, "is_animated", False) and image.format != "MPO"
            return _to_network(image, ["animated: only the first frame is used"] if animated else [], size)
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: is not an image that Pillow reads, as it does JPEG and PNG") from error
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{path}: cannot be read as an image ({one_line(error)})") from error


def _open(path: pathlib.Path) -> Image.Image:
    try:
        return Image.open(path, formats=_formats())
    except Image.DecompressionBombError:  # Pillow's limit does not know that a JPEG is reduced.
        with contextlib.suppress(SyntaxError):  # It is no JPEG.
            return JpegImagePlugin.JpegImageFile(path)
        raise


def to_pixels(images: ImageLike | Sequence[ImageLike], size: int = IMAGE_SIZE) -> np.ndarray:
    """Convert one image or a sequence of images to pixels (number, size, size, 3) uint8.

    Raises:
        UserError: something is not an image, or a file cannot be read.
    """
    if isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.shape[1:] == (size, size, 3):
        return images
    if isinstance(images, str | os.PathLike | Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4):
        images = [images]
    pixels = [_one_to_pixels(image, size) for image in images]
    return np.stack(pixels) if pixels else np.zeros((0, size, size, 3), np.uint8)


def _one_to_pixels(image: ImageLike, size: int) -> np.ndarray:
    if isinstance(image, str | os.PathLike):
        return read_image(pathlib.Path(image), size)[0]
    if isinstance(image, Image.Image):
        try:
            return _to_network(image, [], size)[0]
        except Exception as error:  # a truncated file can raise anything
            raise UserError(f"an image of mode {image.mode} cannot be read ({one_line(error)})") from error
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3 or not array.size:
        found = f"{array.dtype} of shape {array.shape}"
        raise UserError(f"an image is {found}: expected uint8 of shape (height, width, 3), a PIL image or path")
    return _to_network(Image.fromarray(array), [], size)[0]


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    # Bytes of a PNG's comment or colour profile, which Pillow reads first. Beyond 1 MiB, it would refuse the picture.
    PngImagePlugin.MAX_TEXT_CHUNK = MAX_PIXELS
    # Pillow runs other programs to read EPS, and cannot read WMF on every system.
    return tuple(name for name in Image.OPEN if name not in ("EPS", "WMF"))


def _to_network(image: Image.Image, notes: list[str], size: int) -> tuple[np.ndarray, list[str]]:
    image.load()  # A PNG's metadata may follow its pixels.
    with contextlib.suppress(Exception):  # Damaged metadata can raise anything, and the pixels are whole.
        # ImageOps.exif_transpose would also write all metadata again, which fails if one entry is unusual.
        if turn := _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1)):
            image = image.transpose(turn)
    if image.mode == "I" or image.mode.startswith("I;16"):
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
    if image.size != (size, size):
        square = "" if image.width == image.height else " from its central square"
        # Cropped, not stretched: the network was trained on true proportions.
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
        notes = [*notes, f"resized to {size}x{size}{square}"]
    return np.array(image), notes
