"""KINDS of image tokenizers, and build: the components of a pipeline over a tiny untrained model."""

from tiny import model
from tokenizer_examples import EXAMPLES

from mot_gen.sequence import Modality
from mot_gen.tokenizers.image_patch import PatchImageTokenizer
from mot_gen.tokenizers.text import TextTokenizer

KINDS = ["PatchImageTokenizer", "LatentImageTokenizer", "VQImageTokenizer"]


def build(kind: str = "PatchImageTokenizer", objective: str = "flow", context: int | None = 128) -> dict:
    """Text and pictures of this kind: patches of 4 x 6 pixels in a grid of 2 x 3, or the tokenizers' own examples."""
    text = TextTokenizer.train(["a handwritten seven and a nine"] * 3, 270)
    image = PatchImageTokenizer((4, 6), 2) if kind == "PatchImageTokenizer" else EXAMPLES[kind][0]()
    pictured = image.modality
    if objective == "masked":
        pictured = Modality(**vars(pictured) | {"objective": objective, "bidirectional": True})
    elif not pictured.discrete:
        pictured = Modality(**vars(pictured) | {"objective": objective})
    net = model([text.modality, pictured], context=context)
    scheduler = None if pictured.discrete else net.objectives["image"].scheduler()
    return {"model": net, "text_tokenizer": text, "image_tokenizer": image, "scheduler": scheduler}
