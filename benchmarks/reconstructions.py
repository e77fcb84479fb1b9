"""What image tokenizers keep, to look at. `python -m benchmarks.reconstructions FOLDER ... --out sheet.png`

A row of held-out emoji, enlarged to whole multiples of their pixels, and below them what each tokenizer makes of them.
All emojis designed by OpenMoji, the open-source emoji and icon project; license: CC BY-SA 4.0, written into the file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from mot_gen.datasets.emoji import emoji_images, held_out
from mot_gen.files.image_files import to_pil
from mot_gen.files.pictures import grid, save_png
from mot_gen.tokenizers.saved import load_tokenizer

ABOUT = {"Copyright": "OpenMoji, CC BY-SA 4.0, https://openmoji.org; rows below the first are reconstructions of it"}


def sheet(folders: list[str], count: int = 12, enlarged: int = 3) -> Image.Image:
    """The held-out emoji that lie evenly apart in their order, over their reconstructions by each tokenizer."""
    tokenizers = [load_tokenizer(folder) for folder in folders]
    side = tokenizers[0].size[0]
    pictures = [picture for name, picture in emoji_images(side) if held_out(name)]
    rows = pictures[:: len(pictures) // count][:count]
    for tokenizer in tokenizers:
        decoded = tokenizer.decode_batch(tokenizer.encode_batch(rows[:count]))
        rows = rows + [to_pil(image) for image in decoded]
    size = (side * enlarged, side * enlarged)
    return grid([picture.resize(size, Image.Resampling.NEAREST) for picture in rows], count, side=side * enlarged)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizers", nargs="+", metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG")
    args = parser.parse_args()
    save_png(sheet(args.tokenizers), args.out, ABOUT)


if __name__ == "__main__":
    main()
