"""OmniGen2's training data: an instruction, the pictures it speaks of, the picture it asks for; JSON or JSON lines.

    {"task_type": "edit", "instruction": "add a hat", "input_images": ["a.png"], "output_image": "b.png"}

`task_type` is t2i, edit or ic (in-context); text to image has no `input_images`. Schema: github.com/VectorSpaceLab/
OmniGen2, docs/FINETUNE.md, omnigen2/dataset/omnigen2_train_dataset.py (commit 0f72fa9). The ratios in its .yml files
are a mixture of several such files: convert these, and mix in the recipe.

The output picture alone carries loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mot_gen.corpora.foreign import Media, Row, image_part, rows, text_part

__all__ = ["FIELDS", "records", "rows"]

FIELDS = {"task_type", "instruction", "input_images", "output_image"}


def records(row: Row, media: Media) -> Iterator[dict[str, Any]]:
    """One instruction and its answer."""
    shown = [image_part(media.find(image)) for image in row.fields.get("input_images") or []]
    yield {
        "id": row.id,
        "messages": [
            {"role": "user", "content": [*shown, text_part(row["instruction"])]},
            {"role": "assistant", "content": [image_part(media.find(row["output_image"]))]},
        ],
    }
