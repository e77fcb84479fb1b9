"""The types that all other folders use: Modality, Frame, Span, Vocabulary, Layout, Latents, Masking, PackedBatch.

A *sample* is a list of `Span`s, each one piece of one `Modality`. Packing puts samples, as *documents*, into the rows
of a `PackedBatch`: B rows of S slots. A slot holds either a discrete token, whose id lives in one joint `Vocabulary`,
or a continuous one, whose value lives in `Latents`. `Layout` is all that a backbone may see of a batch.
"""

from mot_gen.sequence.batch import Latents, Masking, PackedBatch
from mot_gen.sequence.frame import Frame
from mot_gen.sequence.layout import PADDING, Layout
from mot_gen.sequence.modality import Modality, Span, all_learned, only_read
from mot_gen.sequence.vocabulary import Vocabulary

__all__ = [
    "PADDING",
    "Frame",
    "Latents",
    "Layout",
    "Masking",
    "Modality",
    "PackedBatch",
    "Span",
    "Vocabulary",
    "all_learned",
    "only_read",
]
