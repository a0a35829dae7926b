"""Image files of many kinds: the pixels that the network sees, and files that are refused."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxresnet.data.images import read_image, read_images
from jaxresnet.system.errors import UserError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (32, 32, 3)).astype(np.uint8)
GREY = RNG.integers(0, 256, (32, 32)).astype(np.uint8)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def test_rgb_of_32x32_is_unchanged(tmp_path):
    pixels, notes = read_image(save(tmp_path / "a.png", RGB))
    np.testing.assert_array_equal(pixels, RGB)
    assert (pixels.dtype, notes) == (np.uint8, [])


@pytest.mark.parametrize(
    ("array", "grey", "note"),
    [
        (GREY, GREY, "grey: copied to red, green and blue"),
        (GREY > 127, 255 * (GREY > 127), "grey: copied to red, green and blue"),
        (GREY.astype(np.uint16) * 257, GREY, "16-bit grey: scaled to 8 bits and copied to red, green and blue"),
    ],
)
def test_grey_becomes_three_channels(tmp_path, array, grey, note):
    pixels, notes = read_image(save(tmp_path / "a.png", array))
    np.testing.assert_array_equal(pixels, np.repeat(grey[..., None], 3, -1))
    assert notes == [note]


def png(width, height, bit_depth, colour_type, rows):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_rgb_of_16_bits_is_scaled(tmp_path):
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in RGB)
    (tmp_path / "a.png").write_bytes(png(32, 32, 16, 2, rows))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[0], RGB)


def test_palettes_are_resolved(tmp_path):
    image = Image.fromarray(RGB).quantize(200)
    image.save(tmp_path / "a.png")
    pixels, notes = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels, image.convert("RGB"))
    assert notes == []


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(tmp_path, mode):
    if mode == "P":
        image = Image.fromarray(np.repeat(np.arange(2, dtype=np.uint8), 16)[None].repeat(32, 0))
        image.putpalette([0, 0, 0] * 2)
        image.save(tmp_path / "a.png", transparency=1)  # the second colour of the palette
    else:
        image = Image.fromarray(np.zeros((32, 32, 4), np.uint8))
        image.paste((0, 0, 0, 255), (0, 0, 16, 32))
        image.convert(mode).save(tmp_path / "a.png")
    pixels, notes = read_image(tmp_path / "a.png")
    assert "transparent: put on a white background" in notes
    assert (pixels[:, :16] == 0).all() and (pixels[:, 16:] == 255).all()


@pytest.mark.parametrize("ending", ["gif", "png", "webp"])
def test_animations_show_their_first_frame(tmp_path, ending):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
    pixels, notes = read_image(tmp_path / f"a.{ending}")
    assert pixels[0, 0, 0] > 250 and pixels[0, 0, 2] < 5
    assert notes == ["animated: only the first frame is used"]


def test_photographs_with_previews_are_not_animated(tmp_path):
    photograph, preview = Image.new("RGB", (32, 32), "red"), Image.new("RGB", (32, 32))
    photograph.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    pixels, notes = read_image(tmp_path / "a.jpg")
    assert notes == [] and (pixels[..., 0] > 250).all()


def test_large_photographs_are_read_reduced(tmp_path):
    Image.new("RGB", (9000, 7000), "blue").save(tmp_path / "a.jpg")  # more than MAX_PIXELS
    pixels, notes = read_image(tmp_path / "a.jpg")
    assert pixels[16, 16, 2] > 250 and notes == ["resized to 32x32 from its central square"]


def test_other_sizes_keep_their_proportions(tmp_path):
    wide = np.zeros((64, 200, 3), np.uint8)
    wide[:, 68:132] = RGB.repeat(2, 0).repeat(2, 1)
    pixels, notes = read_image(save(tmp_path / "a.png", wide))
    expected = Image.fromarray(RGB.repeat(2, 0).repeat(2, 1)).resize((32, 32), Image.Resampling.BICUBIC)
    # At its edges the square is smoothed with the pixels beyond it.
    np.testing.assert_array_equal(pixels[:, 2:-2], np.asarray(expected)[:, 2:-2])
    assert notes == ["resized to 32x32 from its central square"]
    assert read_image(save(tmp_path / "b.png", RGB.repeat(3, 0).repeat(3, 1)))[1] == ["resized to 32x32"]


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    save(tmp_path / "a.png", RGB, exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[0], RGB[::-1, ::-1])


def truncated(path):
    save(path, RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:2000])


def checksum_wrong(path):
    save(path, RGB)
    content = bytearray(path.read_bytes())
    content[60] ^= 255
    path.write_bytes(content)


REFUSED = {
    "text": (lambda path: path.write_text("no image"), "is not an image"),
    "empty": (lambda path: path.write_bytes(b""), "is not an image"),
    "random": (lambda path: path.write_bytes(RNG.bytes(3000)), "is not an image"),
    "truncated": (truncated, "cannot be read as an image"),
    "damaged": (checksum_wrong, "cannot be read as an image"),
    "bomb": (lambda path: path.write_bytes(png(60_000, 60_000, 8, 2, b"\0" * 1000)), "exceeds limit"),
    "large": (lambda path: path.write_bytes(png(10_000, 6_000, 8, 2, b"")), "10000x6000 pixels are too many"),
    "PostScript, a program": (lambda path: Image.fromarray(RGB).save(path, format="EPS"), "is not an image"),
    "floats": (lambda path: Image.fromarray(GREY.astype(np.float32)).save(path, format="TIFF"), "no known range"),
    "32-bit": (lambda path: Image.fromarray(GREY.astype(np.int32) << 20).save(path, format="TIFF"), "no known range"),
    "folder": (lambda path: path.mkdir(), "cannot be read as an image"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_files_are_refused(tmp_path, kind):
    make, message = REFUSED[kind]
    path = tmp_path / "a.png"
    make(path)
    with pytest.raises(UserError, match=message) as raised:
        read_image(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_read_images_keeps_the_order(tmp_path):
    files = [save(tmp_path / f"{number}.png", np.full((32, 32, 3), number, np.uint8)) for number in range(20)]
    files[7].write_text("no image")
    for number, read in enumerate(read_images(files)):
        if number == 7:
            assert "7.png: is not an image" in str(read)
        else:
            assert (read[0] == number).all()
