"""Samples -> PackedBatch and back: document_length, plan_rows, best_fit_rows, pack_rows, pack, pack_prompts, unpack.

A sample of spans becomes one document. With text T and an image of four tokens I it is laid out as

    <document> T T T <image> I I I I </image> </document>

Only `writer.py` writes special tokens. A document never crosses a row; `plan_rows` says which documents share one.
"""

from mot_gen.packing.packer import pack, pack_prompts, pack_rows
from mot_gen.packing.positions import span_positions
from mot_gen.packing.rows import best_fit_rows, document_length, plan_rows
from mot_gen.packing.targets import token_targets
from mot_gen.packing.unpacker import unpack
from mot_gen.packing.writer import Sample

__all__ = [
    "Sample",
    "best_fit_rows",
    "document_length",
    "pack",
    "pack_prompts",
    "pack_rows",
    "plan_rows",
    "span_positions",
    "token_targets",
    "unpack",
]
