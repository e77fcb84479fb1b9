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
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mot_gen.errors import InputError, one_line, require
from mot_gen.files.safe_names import refuse_url
from mot_gen.files.suffixes import UNREAD_PICTURES, suffix_of

if TYPE_CHECKING:  # torch takes seconds to import, and looking at headers does without
    from torch import Tensor

MAX_PIXELS = 89_478_485  # Pillow's own limit, which it only warns of up to twice this size
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_BYTES_IN_ORDER = ("L", "RGB", "RGBA")
_GREY_MODES = ("1", "L", "LA", "La", "I", "F")  # and all that begin with "I;"
# What Pillow may decode. Left out are kinds that run another program (EPS) or hold no picture that it could decode.
_USUAL_KINDS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "AVIF", "TIFF", "MPO", "JPEG2000", "HEIF")
_RARE_KINDS = ("DIB", "ICO", "ICNS", "PCX", "QOI", "TGA")
_KINDS = (*_USUAL_KINDS, *_RARE_KINDS)
_ORIENTATION, _QUARTER_TURNS = 0x0112, (5, 6, 7, 8)  # an EXIF field, and its values that exchange width and height


class Header(NamedTuple):
    """What a picture is before it is decoded. width, height: in pixels, upright. kind: such as "PNG RGB". many: has
    more than one frame, as animations have."""

    width: int
    height: int
    grey: bool
    kind: str
    many: bool = False


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
        turned = _orientation(image, where) in _QUARTER_TURNS
        width, height = image.size[::-1] if turned else image.size
        kind = f"{image.format or 'PIL'} {image.mode}"
        return Header(width, height, _is_grey(image), kind, _has_more_frames(image))


def _is_grey(image: Image.Image) -> bool:
    """Whether a picture can hold no colour, as far as its mode and its palette tell."""
    if image.mode == "P" and image.palette is not None:
        order, colors = image.palette.getdata()  # unlike `getpalette`, which decodes the picture
        return order == "RGB" and colors[0::3] == colors[1::3] == colors[2::3]
    return image.mode in _GREY_MODES or image.mode.startswith("I;")


def _has_more_frames(image: Image.Image) -> bool:
    """Whether there are others beside the first frame; a second one that is broken is none."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:
        return False


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
    wanted = "an image array must be (H, W, C) or (H, W), uint8 or floats in [0, 1]"
    known = raw.ndim in (2, 3) and raw.dtype.kind in "uf"
    require(known, f"{wanted}, got {raw.dtype} {raw.shape}")
    import torch

    pixels = np.atleast_3d(raw).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(pixels))


def _name(raw: Any) -> str:
    """What messages call a raw image."""
    if isinstance(raw, Image.Image):
        return "the image"
    if isinstance(raw, (bytes, bytearray)):
        return f"image of {len(raw)} bytes"
    is_path = isinstance(raw, (str, Path)) or hasattr(raw, "read_bytes")
    kind = type(raw).__name__
    require(is_path, f"cannot read an image from {kind}; give a PIL image, a path, bytes, a tensor or an array")
    return str(raw)


@contextmanager
def _opened(raw: Any, where: str) -> Iterator[Image.Image]:
    """A PIL image whose header has been read. A file that was opened for it is closed; a PIL image is left open."""
    if isinstance(raw, Image.Image):
        yield raw
        return
    with _open(_file_of(raw, where), where) as image:
        yield image


def _file_of(raw: Any, where: str) -> Any:
    """What Pillow opens: a path as it is, or the bytes of a file."""
    if isinstance(raw, (bytes, bytearray)):
        return io.BytesIO(raw)
    if isinstance(raw, (str, Path)):
        refuse_url(where)
        require(not Path(raw).is_dir(), f"{where}: is a folder; give a file")
        require(Path(raw).is_file(), f"{where}: no such image file")
        return raw
    try:
        return io.BytesIO(raw.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{where}: no such image file") from None


def _open(file: Any, where: str) -> Image.Image:
    """A PIL image whose header has been read; InputError for what is no picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # _check_size refuses what it warns of
        try:
            return Image.open(file, formats=_kinds())
        except Image.DecompressionBombError as error:
            raise InputError(f"{where}: refused before decoding: more than {MAX_PIXELS} pixels") from error
        except Exception as error:  # the header of a broken file can make any decoder raise anything
            raise InputError(f"{where}: not an image that can be read ({_reason(error, where)})") from error


def _reason(error: Exception, where: str) -> str:
    """Why Pillow does not open a file."""
    if suffix_of(where) in UNREAD_PICTURES:
        return f"no reader of {suffix_of(where)} is installed"
    if isinstance(error, UnidentifiedImageError):
        return "its content is no known kind of picture"
    return one_line(error)


@cache
def _kinds() -> tuple[str, ...]:
    """The kinds of _KINDS that this installation of Pillow has."""
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(kind for kind in _KINDS if kind in Image.OPEN)


def _check_size(image: Image.Image, where: str) -> None:
    width, height = image.size
    large = f"{where}: refused before decoding: {width} x {height} is more than {MAX_PIXELS} pixels"
    require(width * height <= MAX_PIXELS, large)
    require(width * height, f"{where}: {width} x {height} has no pixels")


def _decode(image: Image.Image, color: str, where: str, as_stored: bool) -> Image.Image:
    """All of a picture, its first frame, upright and flattened."""
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
    within = ((values >= 0) & (values <= top)).all()  # so written, NaN is refused too
    require(within, f"mode {image.mode} holds values outside [0, {top:g}]; convert it to 8 or 16 bits")
    return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))


def center_crop_resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The largest centred box of the aspect ratio of `size` = (height, width), resized to it (bicubic, antialiased)."""
    height, width = size
    crop_width, crop_height = cut_to(image.size, (width, height))
    left, top = (image.width - crop_width) // 2, (image.height - crop_height) // 2
    # A true crop: with `resize(box=...)` the filter would reach for pixels outside of the box.
    image = image.crop((left, top, left + crop_width, top + crop_height))
    return image.resize((width, height), Image.Resampling.BICUBIC)


def cut_to(given: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int]:
    """The largest (width, height) within `given` that has the aspect ratio of `wanted`, to a pixel."""
    (width, height), (wanted_width, wanted_height) = given, wanted
    cut_width = min(width, max(1, round(height * wanted_width / wanted_height)))
    cut_height = min(height, max(1, round(width * wanted_height / wanted_width)))
    return cut_width, cut_height


def to_tensor(image: Image.Image) -> Tensor:
    """8-bit PIL image of mode "L", "RGB" or "RGBA" -> float tensor (C, H, W) in [0, 1]."""
    import torch

    known = image.mode in _BYTES_IN_ORDER
    require(known, f"cannot turn mode {image.mode} into a tensor; load_image makes it RGB or L")
    return torch.from_numpy(np.array(image)).reshape(image.height, image.width, -1).movedim(-1, 0).float() / 255


def to_pil(image: Tensor) -> Image.Image:
    """Float tensor (C, H, W) in [0, 1], rounded to the nearest of 256, or uint8; C = 1, 3 or 4 -> 8-bit PIL image."""
    import torch

    _check(image)
    if image.is_floating_point():
        image = (image.float() * 255).round().to(torch.uint8)
    grey = len(image) == 1
    pixels = image.detach().cpu().movedim(0, -1).contiguous().numpy()
    return Image.fromarray(pixels[..., 0] if grey else pixels)


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
    """InputError unless a tensor is a picture."""
    import torch

    shape = tuple(image.shape)
    fits = image.ndim == 3 and shape[0] in _MODES and image.numel() > 0
    require(fits, f"an image tensor must be (C, H, W) with C = 1, 3 or 4, got shape {shape}")
    if image.dtype == torch.uint8:
        return
    require(image.is_floating_point(), f"an image tensor must be float in [0, 1] or uint8, got {image.dtype}")
    within = ((image >= 0) & (image <= 1)).all()  # so written, NaN is refused too
    require(within, "a float image tensor must lie in [0, 1]; this one holds NaN or values outside")
