"""Pictures slightly turned, moved and scaled, so that a small set is not learned by heart: augment.

Under diffusion or flow each picture is seen under new noise every time; a sequence of ids is the same every time.
"""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image

from mot_gen.recipes.sections import Augment


def augment(image: Image.Image, options: Augment, rng: random.Random) -> Image.Image:
    """A changed copy of the same size and mode, bicubic; what comes in from outside continues the border."""
    width, height = image.size
    angle = math.radians(rng.uniform(-options.degrees, options.degrees))
    zoom = 1 + rng.uniform(-options.scale, options.scale)
    right, down = (rng.uniform(-options.shift, options.shift) * side for side in (width, height))
    margin = math.ceil(max(width, height) * (0.5 + options.shift + options.scale))
    pixels = np.asarray(image)
    around = Image.fromarray(np.pad(pixels, [(margin, margin)] * 2 + [(0, 0)] * (pixels.ndim - 2), mode="edge"))
    # PIL maps each pixel of the result back to the source: x' = a x + b y + c, y' = d x + e y + f.
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    x, y = width / 2, height / 2
    c = margin + x - cos * (x + right) - sin * (y + down)
    f = margin + y + sin * (x + right) - cos * (y + down)
    return around.transform(
        (width, height), Image.Transform.AFFINE, (cos, sin, c, -sin, cos, f), Image.Resampling.BICUBIC
    )
