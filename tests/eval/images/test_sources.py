"""Images as they are read: every kind of file as training reads it, `as_stored`, and images in memory."""

import numpy as np
import pytest
import torch
from PIL import Image

from mot_gen.errors import InputError
from mot_gen.eval.images.sources import open_images
from mot_gen.files.image_files import load_image


@pytest.fixture
def odd(tmp_path):
    """A folder of pictures that a naive reader gets wrong."""
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (32, 16), "red").save(tmp_path / "phone.jpg", exif=turned)
    Image.fromarray(np.full((8, 8), 30000, np.uint16)).save(tmp_path / "grey16.png")
    Image.fromarray(np.full((8, 8), 30000, np.int32)).save(tmp_path / "int32.tiff")
    Image.fromarray(np.full((8, 8), 0.25, np.float32)).save(tmp_path / "float.tif")
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("P", (8, 8)).save(tmp_path / "palette.gif")
    Image.new("1", (8, 8), 1).save(tmp_path / "one.pbm")
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "new.jfif", format="JPEG")
    return tmp_path


def test_evaluation_reads_what_training_reads(odd):
    source = open_images(odd)
    assert len(source) == 8
    for number, name in enumerate(source.names):
        expected = np.asarray(load_image(odd / name))
        assert np.array_equal(source.read(number).permute(1, 2, 0).numpy(), expected), name


def levels(source, name):
    return source.read(source.names.index(name))


def test_depth_rotation_and_transparency(odd):
    source = open_images(odd)
    assert levels(source, "phone.jpg").shape == (3, 32, 16)
    assert levels(source, "grey16.png").unique().tolist() == [round(30000 / 65535 * 255)]
    assert levels(source, "int32.tiff").unique().tolist() == [round(30000 / 65535 * 255)]
    assert levels(source, "float.tif").unique().tolist() == [64]
    assert levels(source, "clear.png").unique().tolist() == [255]


def test_as_stored_leaves_rotation_and_transparency_alone_and_says_so(odd):
    source = open_images(odd, as_stored=True)
    assert levels(source, "phone.jpg").shape == (3, 16, 32)
    assert levels(source, "clear.png")[:, 0, 0].tolist() == [255, 0, 0]
    assert source.provenance() == {"pictures": "as-stored"}
    assert source.fingerprint != open_images(odd).fingerprint


def test_images_in_memory_may_have_any_form():
    pixels = torch.randint(0, 256, (4, 3, 9, 7), dtype=torch.uint8)
    pil = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
    forms = {
        "tensor": pixels,
        "float tensor": pixels.double() / 255,
        "array": pixels.permute(0, 2, 3, 1).numpy(),
        "PIL": pil,
        "arrays": [np.asarray(image) for image in pil],
        "tensors": list(pixels),
    }
    for name, form in forms.items():
        source = open_images(form)
        assert torch.equal(torch.stack([source.read(i) for i in range(4)]), pixels), name
        assert source.fingerprint is None


def test_what_is_no_image_is_refused():
    with pytest.raises(InputError, match="real: cannot read images from int"):
        open_images(3, name="real")
    with pytest.raises(InputError, match="holds no images"):
        open_images([])
    with pytest.raises(InputError, match="images must be"):
        open_images(torch.zeros(5))


def test_one_picture_is_not_read_as_many_grey_ones():
    for shape in ((8, 8, 3), (3, 8, 8), (8, 8, 4)):
        with pytest.raises(InputError, match=r"may be one image or several grey ones; give \(1, H, W, 3\)"):
            open_images(np.zeros(shape, np.uint8))
    assert len(open_images(np.zeros((5, 8, 8), np.uint8))) == 5


def test_files_that_cannot_be_read_are_refused_in_a_line(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 cut off")
    (tmp_path / "a.npy").write_bytes(b"no array")
    np.save(tmp_path / "objects.npy", np.array([1, "a"], dtype=object))
    (tmp_path / "a.parquet").write_bytes(b"PAR")
    for name in ("a.npz", "a.npy", "objects.npy"):
        with pytest.raises(InputError, match=f"{name}: no array can be read"):
            open_images(tmp_path / name)
    with pytest.raises(InputError, match=r"a\.parquet: is no parquet file that can be read"):
        open_images(tmp_path / "a.parquet")


def test_what_is_wrong_with_an_image_is_said_once(odd):
    (odd / "broken.png").write_text("no picture")
    source = open_images(odd)
    number = source.names.index("broken.png")
    assert source.read_or_note(number) is None and source.read_or_note(number) is None
    assert source.unreadable == ["broken.png: not an image that can be read (its content is no known kind of picture)"]
    levels = open_images(torch.full((2, 3, 4, 4), 200.0))
    with pytest.raises(InputError, match=r"no image of 2 can be read; the first: 0: images must lie in \[0, 1\], got"):
        [levels.read_or_note(number) for number in range(2)]
