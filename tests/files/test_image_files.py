"""Every kind of picture that people bring, against reference pixels; and what is refused, in one line."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from mot_gen.errors import InputError
from mot_gen.files import image_files
from mot_gen.files.image_files import center_crop_resize, header, image_tensor, load_image, to_pil, to_tensor

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def file(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(raw, color="RGB"):
    image = load_image(raw, color)
    assert image.mode == color
    return np.asarray(image)


def refused(raw, match):
    with pytest.raises(InputError, match=match) as error:
        load_image(raw)
    assert "\n" not in str(error.value)


def test_every_way_to_hand_over_the_same_picture(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(file(Image.fromarray(RGB)))
    tensor = torch.from_numpy(RGB).movedim(-1, 0)
    for raw in (
        path,
        str(path),
        path.read_bytes(),
        Image.fromarray(RGB),
        tensor,
        tensor.float() / 255,
        tensor.double() / 255,
    ):
        assert np.array_equal(pixels(raw), RGB)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    deep = np.array([[0, 128, 257, 32768, 65535]], dtype=np.uint16)
    expected = np.array([[0, 0, 1, 128, 255]], dtype=np.uint8)
    assert np.array_equal(pixels(file(Image.fromarray(deep)), "L"), expected)
    assert np.array_equal(pixels(file(Image.fromarray(deep), "TIFF"))[..., 1], expected)
    pgm = b"P5 5 1 65535 " + deep.astype(">u2").tobytes()
    assert np.array_equal(pixels(pgm, "L"), expected)


def test_floats_are_scaled_and_others_refused():
    grey = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    assert pixels(Image.fromarray(grey), "L").tolist() == [[0, 128, 255]]
    refused(file(Image.fromarray(grey * 300), "TIFF"), r"outside \[0, 1\]")
    refused(Image.fromarray(np.array([[np.nan]], dtype=np.float32)), r"outside \[0, 1\]")


@pytest.mark.parametrize("kind", ["AVIF", "QOI", "TGA", "JPEG2000", "ICO", "PCX", "PPM", "WEBP"])
def test_whatever_pillow_reads_is_read(kind):
    flat = Image.new("RGB", (32, 32), (200, 100, 50))
    assert np.abs(pixels(file(flat, kind)).astype(int) - [200, 100, 50]).max() <= 3


def test_a_kind_that_runs_another_program_is_not_read():
    refused(file(Image.new("RGB", (4, 4)), "EPS"), "not an image that can be read")


def test_thirty_two_bits_are_read_on_the_scale_of_sixteen(tmp_path):
    deep = np.array([[0, 257, 32768, 65535]], dtype=np.int32)
    assert pixels(file(Image.fromarray(deep), "TIFF"), "L").tolist() == [[0, 1, 128, 255]]
    refused(file(Image.fromarray(deep * 2), "TIFF"), r"outside \[0, 65535\]")


def test_a_header_says_what_the_picture_will_be():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert header(file(Image.fromarray(RGB), "JPEG", exif=exif)) == (6, 9, False, "JPEG RGB", False)
    assert header(file(Image.fromarray(RGB[..., 0].astype(np.uint16)))) == (9, 6, True, "PNG I;16", False)
    assert header(Image.fromarray(RGB).convert("LA")).grey and not header(torch.zeros(3, 2, 2)).grey
    with pytest.raises(InputError, match="no such image file"):
        header("missing.png")


def test_transparency_is_composited_on_white():
    alpha = np.tile(np.linspace(0, 255, 9).round().astype(np.uint8), (6, 1))
    rgba = np.dstack([RGB, alpha])
    share = alpha[..., None] / 255
    expected = RGB * share + 255 * (1 - share)
    assert np.abs(pixels(file(Image.fromarray(rgba))) - expected).max() <= 1
    grey = Image.merge("LA", [Image.fromarray(RGB[..., 0]), Image.fromarray(alpha)])
    assert np.abs(pixels(file(grey), "L") - expected[..., 0]).max() <= 1
    premultiplied = Image.fromarray(rgba).convert("RGBa")
    assert np.abs(pixels(premultiplied) - expected).max() <= 2
    assert np.array_equal(pixels(torch.from_numpy(rgba).movedim(-1, 0)), pixels(Image.fromarray(rgba)))


def test_palettes_with_and_without_transparency():
    palette = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8)).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    assert pixels(file(palette)).tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]
    assert pixels(file(palette, transparency=1)).tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]
    keyed = Image.fromarray(np.array([[[9, 9, 9], [1, 2, 3]]], dtype=np.uint8))
    assert pixels(file(keyed, transparency=(9, 9, 9))).tolist() == [[[255, 255, 255], [1, 2, 3]]]


def test_cmyk_is_ink_on_paper():
    cmyk = np.random.default_rng(1).integers(0, 256, (4, 5, 4), dtype=np.uint8)
    expected = (255.0 - cmyk[..., :3]) * (255.0 - cmyk[..., 3:]) / 255
    assert np.abs(pixels(file(Image.fromarray(cmyk, "CMYK"), "TIFF")) - expected).max() <= 1
    flat = np.tile(cmyk[:1, :1], (16, 16, 1))  # Adobe's JPEG stores CMYK inverted
    assert np.abs(pixels(file(Image.fromarray(flat, "CMYK"), "JPEG", quality=100)) - expected[0, 0]).max() <= 3


def test_one_bit_and_grey_pictures_are_read():
    bits = np.array([[True, False, True]])
    assert pixels(file(Image.fromarray(bits)), "L").tolist() == [[255, 0, 255]]
    assert np.array_equal(pixels(file(Image.fromarray(RGB[..., 0]))), np.repeat(RGB[..., :1], 3, -1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_rotation_is_carried_out(orientation):
    undo = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, 1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](RGB)))
    assert np.array_equal(pixels(file(stored, exif=exif)), RGB)
    smooth = np.kron(np.eye(2, 3, dtype=np.uint8) * 200, np.ones((16, 16), np.uint8))
    jpeg = file(Image.fromarray(np.ascontiguousarray(undo[orientation](smooth))), "JPEG", exif=exif, quality=95)
    assert np.abs(pixels(jpeg, "L").astype(int) - smooth).max() <= 8


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (3, 2), color) for color in ("red", "lime", "blue")]
    gif = file(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (pixels(gif) == [255, 0, 0]).all()
    opened = Image.open(io.BytesIO(gif))
    opened.seek(2)
    assert (pixels(opened) == [255, 0, 0]).all()


def test_a_strip_of_one_by_ten_thousand():
    strip = Image.fromarray(np.arange(10_000, dtype=np.int64).astype(np.uint8)[None])
    for image in (strip, strip.transpose(Image.Transpose.ROTATE_90)):
        assert np.asarray(center_crop_resize(load_image(file(image), "L"), (8, 8))).std() <= 1
    assert image_tensor(strip, (8, 12), 3).shape == (3, 8, 12)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_truncated_file_is_refused_and_named(tmp_path, kind):
    whole = file(Image.fromarray(np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)), kind)
    path = tmp_path / "cut"
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "cut: ")


@pytest.mark.parametrize("content", [b"", b"\x00", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0"])
def test_what_is_no_image_is_refused(content):
    refused(content, f"image of {len(content)} bytes")


def test_a_bomb_is_refused_before_decoding(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    # No pixel data at all: only a reader that looks at the header alone can say that it is too large.
    for side in (10_000, 60_000):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))
        refused(tmp_path / "bomb.png", r"bomb\.png: refused before decoding")


def test_a_gif_whose_first_frame_is_larger_than_its_screen_is_refused(monkeypatch):
    monkeypatch.setattr(image_files, "MAX_PIXELS", 100)
    refused(file(Image.new("RGB", (11, 10)), "GIF"), "refused before decoding: 11 x 10 is more than 100")
    assert load_image(file(Image.new("RGB", (10, 10)), "GIF")).size == (10, 10)


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        ("no/such/file.png", "no such image file"),
        (".", "is a folder; give a file"),
        (None, "NoneType"),
        (torch.full((3, 2, 2), float("nan")), "NaN"),
        (torch.full((3, 2, 2), 2.0), r"\[0, 1\]"),
        (torch.zeros(2, 2), r"\(C, H, W\)"),
        (torch.zeros(5, 2, 2), r"\(C, H, W\)"),
        (torch.zeros(3, 0, 2), r"\(C, H, W\)"),
        (torch.zeros(3, 2, 2, dtype=torch.int64), "uint8"),
    ],
)
def test_what_cannot_be_read_is_said(raw, match):
    refused(raw, match)


def test_the_centre_is_cropped_before_it_is_resized():
    image = np.zeros((4, 12, 3), dtype=np.uint8)
    image[:, 4:8] = 255
    assert (np.asarray(center_crop_resize(Image.fromarray(image), (4, 4))) == 255).all()
    assert (np.asarray(center_crop_resize(Image.fromarray(image), (2, 2))) == 255).all()
    fine = np.indices((64, 64)).sum(0) % 2 * 255  # one-pixel checkerboard: aliasing would keep black or white
    small = np.asarray(center_crop_resize(Image.fromarray(fine.astype(np.uint8)), (8, 8)))
    assert np.abs(small[1:-1, 1:-1].astype(int) - 127).max() <= 2


def test_tensor_and_picture_are_inverse():
    assert np.array_equal(np.asarray(to_pil(to_tensor(Image.fromarray(RGB)))), RGB)
    assert to_pil(torch.rand(1, 4, 5)).mode == "L" and to_pil(torch.rand(4, 4, 5)).mode == "RGBA"
    exact = torch.rand(3, 4, 5)
    assert torch.equal(image_tensor(exact, (4, 5), 3), exact)
    with pytest.raises(InputError, match="mode CMYK"):
        to_tensor(Image.new("CMYK", (2, 2)))


def test_old_addresses_are_the_same_objects():
    from mot_gen.data import records
    from mot_gen.eval.images import sources
    from mot_gen.eval.sources import open_images
    from mot_gen.tokenizers.image_files import load_image as old_reader
    from mot_gen.training.records import open_records

    assert old_reader is load_image and open_records is records.open_records and open_images is sources.open_images
