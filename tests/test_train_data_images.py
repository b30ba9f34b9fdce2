"""One image file: every way of storing it, every way of spoiling it, and a thousand at random."""

import contextlib
import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from train.data import images as module
from train.data.images import FORMATS, MAX_PIXELS, ImageError, read_header, read_image, resize


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def colours(rng):
    """7 rows, 10 columns, no two pixels alike, so that no turn or swap goes unnoticed."""
    return rng.integers(0, 256, (7, 10, 3)).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_give_the_very_levels(colours, kind, tmp_path):
    options = {"lossless": True} if kind == "WEBP" else {}
    raw = encode(Image.fromarray(colours), kind, **options)
    (tmp_path / "x").write_bytes(raw)
    for source in (raw, tmp_path / "x", str(tmp_path / "x")):
        got = read_image(source, None, 3)
        assert got.dtype == np.uint8
        assert got.flags.writeable
        np.testing.assert_array_equal(got, colours)


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        raw = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(read_image(raw, None, 3), np.full((5, 6, 3), [255, 0, 0]))


def test_grey_and_colour_become_the_channels_asked_for(colours):
    raw = encode(Image.fromarray(colours), "PNG")
    luma = np.round(colours @ [0.299, 0.587, 0.114])
    assert np.abs(read_image(raw, None, 1)[..., 0] - luma).max() <= 1
    grey = colours[..., 0]
    for got in (read_image(encode(Image.fromarray(grey), "PNG"), None, c) for c in (1, 3)):
        np.testing.assert_array_equal(got, np.repeat(grey[..., None], got.shape[-1], 2))


def stored(samples, depth, colour, clear=None):
    """A PNG of ``samples`` (H, W, C) in ``depth`` bits, of a colour type of its specification, written by hand."""
    bits = (samples.reshape(len(samples), -1, 1) >> np.arange(depth)[::-1]) & 1
    rows = np.packbits(bits.reshape(len(samples), -1).astype(np.uint8), axis=1)
    pixels = np.insert(rows, 0, 0, axis=1).tobytes()  # each row begins with its filter: none
    return png(samples.shape[1], len(samples), depth, colour, pixels, clear)


@pytest.mark.parametrize(
    ("depth", "colour", "keyed"),
    [
        *((depth, 0, keyed) for depth in (1, 2, 4, 8, 16) for keyed in (False, True)),
        *((depth, 2, keyed) for depth in (8, 16) for keyed in (False, True)),
        *((depth, colour, False) for depth in (8, 16) for colour in (4, 6)),
    ],
)
def test_every_depth_and_colour_of_png_lies_over_white(rng, depth, colour, keyed):
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    top = 2**depth - 1
    samples = rng.integers(0, top + 1, (6, 7, channels))
    samples[1] = key = samples[0, 0]
    alpha = samples[..., -1:] / top if colour > 2 else 1.0 - np.all(samples == key, -1, keepdims=True) * keyed
    levels = samples[..., :3] if colour & 2 else samples[..., :1]
    expected = 255 * (levels / top * alpha + 1 - alpha)
    raw = stored(samples, depth, colour, key.astype(">u2").tobytes() if keyed else None)
    if (depth, colour, keyed) == (16, 2, True):
        with pytest.raises(ImageError, match="a transparent colour of 16 bits a channel, expected"):
            read_image(raw, None, 3)
    else:
        grey = colour in (0, 4)
        for channels in (1, 3) if grey else (3,):
            assert np.abs(read_image(raw, None, channels) - expected).max() <= 1.2
        assert read_header(raw).grey == grey


def test_palettes_with_and_without_transparency():
    index = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    palette = Image.frombytes("P", (4, 3), index.tobytes())
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    expected = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    white = np.array([[255, 0, 0], [255, 255, 255], [0, 0, 255]], np.uint8)
    for kind in ("PNG", "GIF"):
        np.testing.assert_array_equal(read_image(encode(palette, kind), None, 3), expected[index])
        np.testing.assert_array_equal(read_image(encode(palette, kind, transparency=1), None, 3), white[index])


@pytest.mark.parametrize(("kind", "dtype"), [("TIFF", "<u2"), ("TIFF", ">u2"), ("PPM", "<u2")])
def test_16_bits_are_scaled_not_cut_off(kind, dtype):
    deep = np.linspace(0, 65535, 60).round().astype(dtype).reshape(6, 10)
    mode = "I;16" if dtype == "<u2" else "I;16B"
    raw = encode(Image.frombytes(mode, (10, 6), deep.tobytes()), kind)
    np.testing.assert_array_equal(read_image(raw, None, 1)[..., 0], np.round(deep / 65535 * 255))
    assert read_header(raw).grey


def test_cmyk_is_converted_and_floats_refused():
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # red
    for kind in ("JPEG", "TIFF"):
        got = read_image(encode(cmyk, kind), None, 3)
        assert np.abs(got.astype(int) - [255, 0, 0]).max() <= 2
    raw = encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    with pytest.raises(ImageError, match=r"floats, expected 8 or 16 bits"):
        read_image(raw, None, 1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_exif_orientation_is_obeyed_and_known_from_the_header(kind):
    stored = np.zeros((16, 24, 3), np.uint8)
    stored[:8, :8], stored[8:, 16:] = [255, 0, 0], [0, 0, 255]
    options = {"PNG": {}, "TIFF": {}, "JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}[kind]
    shown = {1: stored, 4: stored[::-1], 5: stored.swapaxes(0, 1), 6: np.rot90(stored, -1), 8: np.rot90(stored)}
    for orientation, expected in shown.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        raw = encode(Image.fromarray(stored), kind, exif=exif, **options)
        got = read_image(raw, None, 3)
        assert got.shape == expected.shape
        assert np.abs(got.astype(int) - expected).max() <= 2
        header = read_header(raw)
        assert (header.height, header.width, header.grey) == (*got.shape[:2], False)


def test_resizing_keeps_the_middle_and_the_proportions_also_while_decoding(rng):
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3)).astype(np.uint8))
    large = coarse.resize((1200, 900), Image.Resampling.BICUBIC)
    got = read_image(encode(large, "JPEG", quality=95), (32, 32), 3)
    assert np.abs(got.astype(int) - resize(np.asarray(large), (32, 32))).mean() < 2
    # A wide ramp to the right: the middle square of it, whatever the scale.
    ramp = np.tile(np.linspace(0, 255, 120), (40, 1)).round().astype(np.uint8)[..., None]
    for side in (10, 40, 80):
        got = resize(ramp, (side, side))
        assert got.shape == (side, side, 1)
        columns = 40 + (np.arange(side) + 0.5) * 40 / side - 0.5
        np.testing.assert_allclose(got[side // 2, :, 0], columns * 255 / 119, atol=3)
    np.testing.assert_array_equal(resize(ramp, (40, 120)), ramp)


def png(width, height, depth=8, colour=2, data=b"", clear=None):
    """A PNG with sound checksums that claims any size."""
    chunk = lambda kind, body: (  # noqa: E731
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    )
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pieces = chunk(b"IHDR", header) + (chunk(b"tRNS", clear) if clear else b"")
    pieces += chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + pieces


# Just over ours, in the range that Pillow warns of, and beyond what it takes.
@pytest.mark.parametrize(("width", "height"), [(8192, 8193), (10_000, 10_000), (2**30, 2**30)])
@pytest.mark.parametrize("action", ["default", "error"])
def test_decompression_bombs_are_refused_by_their_header(width, height, action):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if action == "default" else action)
        for read in (read_header, lambda raw: read_image(raw, (8, 8), 3)):
            with pytest.raises(ImageError, match=f"{MAX_PIXELS:,}"):
                read(png(width, height))
    assert read_header(png(8192, 8192)).width == 8192, "at the limit"


def spoilt(folder):
    """One path of each kind that is no image, with a word of the reason."""
    good = encode(Image.new("RGB", (9, 9)), "PNG")
    written = {
        "empty.png": (b"", "empty"),
        "text.jpg": (b"not a picture", "not an image"),
        "truncated.png": (good[: len(good) // 2], "damaged"),
        "truncated.jpg": (encode(Image.effect_noise((50, 50), 60), "JPEG")[:900], "damaged: image file is truncated"),
        "page.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        "bomb.png": (png(30_000, 30_000), "limit of"),
    }
    for name, (content, _) in written.items():
        (folder / name).write_bytes(content)
    (folder / "folder.png").mkdir()
    (folder / "circle.png").symlink_to(folder / "circle.png")
    os.mkfifo(folder / "pipe.png")
    reasons = {"folder.png": "a folder", "circle.png": "Too many levels of symbolic links", "pipe.png": "not a regular"}
    return reasons | {name: reason for name, (_, reason) in written.items()}


def seeds(rng):
    """Sound files of every format, small, some with alpha, palettes, EXIF data, compression and several frames."""
    noise = Image.fromarray(rng.integers(0, 256, (21, 17, 3)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "JPEG", "MPO", "GIF", "BMP", "WEBP", "PPM", "AVIF", "TIFF"):
        several = {"save_all": True, "append_images": [noise]} if kind in ("PNG", "MPO", "GIF", "WEBP") else {}
        yield encode(noise, kind, **several, **({"exif": exif} if kind in ("JPEG", "WEBP") else {}))
    for compression in ("tiff_lzw", "tiff_deflate", "jpeg"):
        yield encode(noise, "TIFF", compression=compression)
    yield encode(noise.quantize(16), "PNG", transparency=3)
    yield encode(noise.convert("I;16"), "PNG")
    yield encode(noise.convert("CMYK"), "JPEG", progressive=True)


def mutated(rng, files):
    """One file spoilt: single bits, often of the header, and cut short."""
    raw = bytearray(files[rng.integers(len(files))])
    for place in rng.integers(0, min(len(raw), rng.choice([120, 10**9])), rng.integers(1, 9)):
        raw[place] ^= 1 << int(rng.integers(8))
    return bytes(raw[: int(rng.integers(len(raw)))] if rng.random() < 0.3 else raw)


@pytest.mark.parametrize("count", [200, pytest.param(20_000, marks=pytest.mark.soak)])
def test_mutated_files_are_read_or_refused_with_a_reason(tmp_path, count, time_left):
    path = tmp_path / "x"
    rng = np.random.default_rng(2024)
    files = list(seeds(rng))
    assert {Image.open(io.BytesIO(raw)).format for raw in files} == {*FORMATS, "MPO"} - {"DIB"}
    for raw in files:
        assert read_image(raw, None, 3).shape[2] == 3
    done, refused = 0, []
    with module.quiet():
        while done < count and time_left():
            raw = mutated(rng, files)
            path.write_bytes(raw)
            size, channels = [(None, 3), ((8, 8), 1), ((40, 30), 3)][done % 3]
            with contextlib.suppress(ImageError):
                header = read_header(path)
                assert header.height * header.width <= MAX_PIXELS
            try:
                image = read_image(path if done % 2 else raw, size, channels)
            except ImageError as error:
                refused.append(str(error))
            else:
                assert image.dtype == np.uint8
                assert image.shape[2] == channels
                assert size is None or image.shape[:2] == size
            done += 1
    # Neither is the exception, so both paths were taken often.
    assert 0.2 * done < len(refused) < 0.9 * done
    for reason in refused:
        assert reason.strip() == reason != ""
        assert "\n" not in reason
        assert str(path.parent) not in reason
