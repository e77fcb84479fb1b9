"""Any picture into pixels, and back: load_image, center_crop_resize, image_tensor, to_tensor, to_pil.

A raw image is a PIL image, a path (or what reads as one, such as a UPath), the bytes of a file, a float tensor
(C, H, W) in [0, 1] or a uint8 one, with C = 1
(grey), 3 (RGB) or 4 (RGBA). `PIL.Image.convert` alone clips 16 bits, drops transparency and ignores the EXIF
rotation, silently; here depth is scaled, transparency composited on white, and the rotation carried out.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mot_gen.errors import InputError

MAX_PIXELS = 89_478_485  # Pillow's own limit, which it only warns of up to twice this size
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_BYTES_IN_ORDER = ("L", "RGB", "RGBA")


def load_image(raw, color: str = "RGB") -> Image.Image:
    """A raw image as an 8-bit PIL image of mode `color`, "RGB" or "L"; the first frame of an animation.

    Raises InputError, naming the file, for what is missing, not an image, truncated, of more than MAX_PIXELS pixels
    (seen from the header, before anything is decoded), or of values without a known scale.
    """
    if isinstance(raw, Tensor):
        return _flatten(to_pil(raw), color)
    if isinstance(raw, Image.Image):
        return _decode(raw, color, "the image")
    if isinstance(raw, (bytes, bytearray)):
        return _open(io.BytesIO(raw), color, f"image of {len(raw)} bytes")
    if isinstance(raw, (str, Path)):
        if not Path(raw).is_file():
            raise InputError(f"{raw}: no such image file")
        return _open(raw, color, str(raw))
    if hasattr(raw, "read_bytes"):
        try:
            return _open(io.BytesIO(raw.read_bytes()), color, str(raw))
        except FileNotFoundError:
            raise InputError(f"{raw}: no such image file") from None
    raise InputError(f"cannot read an image from {type(raw).__name__}; give a PIL image, a path, bytes or a tensor")


def _open(file, color: str, where: str) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # _decode refuses what it warns of
        try:
            image = Image.open(file)
        except Image.DecompressionBombError as error:
            raise InputError(f"{where}: refused before decoding: more than {MAX_PIXELS} pixels") from error
        except Exception as error:  # the header of a broken file can make any decoder raise anything
            raise InputError(f"{where}: not an image that can be read ({_one_line(error)})") from error
    with image:
        return _decode(image, color, where)


def _decode(image: Image.Image, color: str, where: str) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(f"{where}: refused before decoding: {width} x {height} is more than {MAX_PIXELS} pixels")
    if not width * height:
        raise InputError(f"{where}: {width} x {height} has no pixels")
    try:
        image.seek(0)
        return _flatten(ImageOps.exif_transpose(image), color)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except Exception as error:  # as above: the message names the file, the cause is chained
        raise InputError(f"{where}: cannot be decoded, perhaps truncated ({_one_line(error)})") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _flatten(image: Image.Image, color: str) -> Image.Image:
    """Any mode -> "RGB" or "L": depth scaled to 8 bits, transparency composited on white."""
    if image.mode[0] in "IF":
        image = _eight_bits(image)
    if image.has_transparency_data or image.mode in ("RGBa", "La"):
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
    if image.mode not in _BYTES_IN_ORDER:
        raise InputError(f"cannot turn mode {image.mode} into a tensor; load_image makes it RGB or L")
    return torch.from_numpy(np.array(image)).reshape(image.height, image.width, -1).movedim(-1, 0).float() / 255


def to_pil(image: Tensor) -> Image.Image:
    """Float tensor (C, H, W) in [0, 1], rounded to the nearest of 256, or uint8; C = 1, 3 or 4 -> 8-bit PIL image."""
    _check(image)
    if image.is_floating_point():
        image = (image.float() * 255).round().to(torch.uint8)
    pixels = image.detach().cpu().movedim(0, -1).contiguous().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def image_tensor(raw, size: tuple[int, int], channels: int) -> Tensor:
    """Any raw image -> float tensor (channels, *size) in [0, 1], cropped and resized; channels 1 or 3.

    A float tensor that already has this shape is taken as it is, without a detour through 8 bits.
    """
    if isinstance(raw, Tensor) and raw.shape == (channels, *size) and raw.is_floating_point():
        _check(raw)
        return raw.detach().float()
    return to_tensor(center_crop_resize(load_image(raw, _MODES[channels]), size))


def _check(image: Tensor) -> None:
    if image.ndim != 3 or image.shape[0] not in _MODES or not image.numel():
        raise InputError(f"an image tensor must be (C, H, W) with C = 1, 3 or 4, got shape {tuple(image.shape)}")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise InputError(f"an image tensor must be float in [0, 1] or uint8, got {image.dtype}")
    if image.is_floating_point() and not ((image >= 0) & (image <= 1)).all():  # NaN compares false
        raise InputError("a float image tensor must lie in [0, 1]; this one holds NaN or values outside")
