"""Any picture into pixels, and back. This is the one reader of pictures, for training, tokenizers and metrics alike.

`load_image`, `image_tensor` and `header` read; `center_crop_resize`, `to_tensor` and `to_pil` convert.

A raw image is a PIL image, a path (or what reads as one, such as a UPath), the bytes of a file, a float tensor
(C, H, W) in [0, 1] or a uint8 one, with C = 1 (grey), 3 (RGB) or 4 (RGBA). `PIL.Image.convert` alone clips 16 bits,
drops transparency and ignores the EXIF rotation, silently. Here depth is scaled, transparency is composited on white,
and the rotation is carried out.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import numpy as np
from PIL import Image, ImageOps

from mot_gen.errors import InputError, one_line
from mot_gen.files.suffixes import UNREAD_PICTURES, suffix_of

if TYPE_CHECKING:  # torch takes seconds to import, and looking at headers does without
    from torch import Tensor

MAX_PIXELS = 89_478_485  # Pillow's own limit, which it only warns of up to twice this size
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_BYTES_IN_ORDER = ("L", "RGB", "RGBA")
_GREY_MODES = ("1", "L", "LA", "La", "I", "F")  # and all that begin with "I;"
# What Pillow may decode. Left out are kinds that run another program (EPS) or hold no picture that it could decode.
_KINDS = (
    *("PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "AVIF", "TIFF", "MPO", "JPEG2000", "HEIF"),
    *("DIB", "ICO", "ICNS", "PCX", "QOI", "TGA"),
)
_ORIENTATION, _QUARTER_TURNS = 0x0112, (5, 6, 7, 8)  # an EXIF field, and its values that exchange width and height


class Header(NamedTuple):
    """What a picture is before it is decoded. width, height: in pixels, upright. kind: such as "PNG RGB"."""

    width: int
    height: int
    grey: bool
    kind: str


def load_image(raw: Any, color: str = "RGB", as_stored: bool = False) -> Image.Image:
    """A raw image as an 8-bit PIL image of mode `color`, "RGB" or "L"; the first frame of an animation.

    as_stored: EXIF rotation is not carried out and transparency is dropped, as pytorch-fid and clean-fid read pictures.
    Depths above 8 bits are scaled in either case.

    Raises InputError, naming the file, for what is missing, not an image, truncated, of more than MAX_PIXELS pixels
    (seen from the header, before anything is decoded), or of values without a known scale.
    """
    raw = _as_tensor(raw)
    if _is_tensor(raw):
        return _flatten(to_pil(raw), color, as_stored)
    where = _name(raw)
    with _opened(raw, where) as image:
        return _decode(image, color, where, as_stored)


def header(raw: Any) -> Header:
    """Size and kind of a raw image, of which nothing is decoded. Raises InputError as `load_image` does."""
    raw = _as_tensor(raw)
    if _is_tensor(raw):
        raw = to_pil(raw)
    where = _name(raw)
    with _opened(raw, where) as image:
        _check_size(image, where)
        width, height = image.size
        if _orientation(image, where) in _QUARTER_TURNS:
            width, height = height, width
        grey = image.mode in _GREY_MODES or image.mode.startswith("I;")
        return Header(width, height, grey, f"{image.format or 'PIL'} {image.mode}")


def _orientation(image: Image.Image, where: str) -> Any:
    """The EXIF field, as far as the header holds it: of a PNG, `getexif` itself would decode the whole picture."""
    try:
        return Image.Image.getexif(image).get(_ORIENTATION)
    except Exception as error:  # of a broken file, as above
        raise InputError(f"{where}: its EXIF cannot be read ({one_line(error)})") from error


def _is_tensor(raw: Any) -> TypeGuard[Tensor]:
    torch = sys.modules.get("torch")  # whoever has a tensor has imported it
    return torch is not None and isinstance(raw, torch.Tensor)


def _as_tensor(raw: Any) -> Any:
    """A numpy array as diffusers has pictures, (H, W, C) or (H, W), as a (C, H, W) tensor; anything else as it is."""
    if not isinstance(raw, np.ndarray):
        return raw
    if raw.ndim not in (2, 3) or raw.dtype.kind not in "uf":
        raise InputError(
            f"an image array must be (H, W, C) or (H, W), uint8 or floats in [0, 1], got {raw.dtype} {raw.shape}"
        )
    import torch

    pixels = raw[..., None] if raw.ndim == 2 else raw
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _name(raw: Any) -> str:
    """What messages call a raw image."""
    if isinstance(raw, Image.Image):
        return "the image"
    if isinstance(raw, (bytes, bytearray)):
        return f"image of {len(raw)} bytes"
    if isinstance(raw, (str, Path)) or hasattr(raw, "read_bytes"):
        return str(raw)
    raise InputError(
        f"cannot read an image from {type(raw).__name__}; give a PIL image, a path, bytes, a tensor or an array"
    )


@contextmanager
def _opened(raw: Any, where: str) -> Iterator[Image.Image]:
    """A PIL image whose header has been read. A file that was opened for it is closed; a PIL image is left open."""
    if isinstance(raw, Image.Image):
        yield raw
        return
    file = raw
    if isinstance(raw, (bytes, bytearray)):
        file = io.BytesIO(raw)
    elif isinstance(raw, (str, Path)):
        if where.startswith(("http://", "https://", "ftp://", "data:")):
            raise InputError(f"{where:.80}: is a URL, and nothing is fetched; download it and give the file")
        if not Path(raw).is_file():
            raise InputError(f"{where}: no such image file")
    else:
        try:
            file = io.BytesIO(raw.read_bytes())
        except FileNotFoundError:
            raise InputError(f"{where}: no such image file") from None
    with _open(file, where) as image:
        yield image


def _open(file: Any, where: str) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # _check_size refuses what it warns of
        try:
            return Image.open(file, formats=_kinds())
        except Image.DecompressionBombError as error:
            raise InputError(f"{where}: refused before decoding: more than {MAX_PIXELS} pixels") from error
        except Exception as error:  # the header of a broken file can make any decoder raise anything
            unread = suffix_of(where) in UNREAD_PICTURES
            reason = f"no reader of {suffix_of(where)} is installed" if unread else one_line(error)
            raise InputError(f"{where}: not an image that can be read ({reason})") from error


@cache
def _kinds() -> tuple[str, ...]:
    """The kinds of _KINDS that this installation of Pillow has."""
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(kind for kind in _KINDS if kind in Image.OPEN)


def _check_size(image: Image.Image, where: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(f"{where}: refused before decoding: {width} x {height} is more than {MAX_PIXELS} pixels")
    if not width * height:
        raise InputError(f"{where}: {width} x {height} has no pixels")


def _decode(image: Image.Image, color: str, where: str, as_stored: bool) -> Image.Image:
    _check_size(image, where)
    try:
        image.seek(0)
        upright = image if as_stored else ImageOps.exif_transpose(image)
        return _flatten(upright, color, as_stored)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except Exception as error:  # as above: the message names the file, the cause is chained
        raise InputError(f"{where}: cannot be decoded, perhaps truncated ({one_line(error)})") from error


def _flatten(image: Image.Image, color: str, as_stored: bool = False) -> Image.Image:
    """Any mode -> "RGB" or "L": depth scaled to 8 bits, transparency composited on white unless `as_stored`."""
    if image.mode[0] in "IF":
        image = _eight_bits(image)
    transparent = image.has_transparency_data or image.mode in ("RGBa", "La")
    if transparent and not as_stored:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(color)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits ("I;16", and "I" as PGM files give it) or of floats in [0, 1] ("F") -> "L"."""
    values = np.asarray(image).astype(np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    if not (values.min() >= 0 and values.max() <= top):  # so written, NaN is refused too
        raise InputError(f"mode {image.mode} holds values outside [0, {top:g}]; convert it to 8 or 16 bits")
    return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))


def center_crop_resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The largest centred box of the aspect ratio of `size` = (height, width), resized to it (bicubic, antialiased)."""
    height, width = size
    crop_width = min(image.width, max(1, round(image.height * width / height)))
    crop_height = min(image.height, max(1, round(image.width * height / width)))
    left, top = (image.width - crop_width) // 2, (image.height - crop_height) // 2
    # A true crop: with `resize(box=...)` the filter would reach for pixels outside of the box.
    image = image.crop((left, top, left + crop_width, top + crop_height))
    return image.resize((width, height), Image.Resampling.BICUBIC)


def to_tensor(image: Image.Image) -> Tensor:
    """8-bit PIL image of mode "L", "RGB" or "RGBA" -> float tensor (C, H, W) in [0, 1]."""
    import torch

    if image.mode not in _BYTES_IN_ORDER:
        raise InputError(f"cannot turn mode {image.mode} into a tensor; load_image makes it RGB or L")
    return torch.from_numpy(np.array(image)).reshape(image.height, image.width, -1).movedim(-1, 0).float() / 255


def to_pil(image: Tensor) -> Image.Image:
    """Float tensor (C, H, W) in [0, 1], rounded to the nearest of 256, or uint8; C = 1, 3 or 4 -> 8-bit PIL image."""
    import torch

    _check(image)
    if image.is_floating_point():
        image = (image.float() * 255).round().to(torch.uint8)
    pixels = image.detach().cpu().movedim(0, -1).contiguous().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def image_tensor(raw: Any, size: tuple[int, int], channels: int) -> Tensor:
    """Any raw image -> float tensor (channels, *size) in [0, 1], cropped and resized; channels 1 or 3.

    A float tensor that already has this shape is taken as it is, without a detour through 8 bits.
    """
    raw = _as_tensor(raw)
    if _is_tensor(raw) and raw.shape == (channels, *size) and raw.is_floating_point():
        _check(raw)
        return raw.detach().float()
    return to_tensor(center_crop_resize(load_image(raw, _MODES[channels]), size))


def _check(image: Tensor) -> None:
    import torch

    if image.ndim != 3 or image.shape[0] not in _MODES or not image.numel():
        raise InputError(f"an image tensor must be (C, H, W) with C = 1, 3 or 4, got shape {tuple(image.shape)}")
    if image.dtype == torch.uint8:
        return
    if not image.is_floating_point():
        raise InputError(f"an image tensor must be float in [0, 1] or uint8, got {image.dtype}")
    if not ((image >= 0) & (image <= 1)).all():  # so written, NaN is refused too
        raise InputError("a float image tensor must lie in [0, 1]; this one holds NaN or values outside")
