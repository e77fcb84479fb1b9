"""What a step of training is made of and costs, whatever the backbone: Workload, Cost, training_flops.

Models are built on the meta device, so 7B fits a laptop. Texts are read, since tokens and fill depend on them; pictures
of a known number of tokens are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from mot_gen.data.cache_size import media_bytes
from mot_gen.data.loader import Loader
from mot_gen.data.spans import BlankSpans
from mot_gen.flops import count_parameters, forward_flops
from mot_gen.model import MultimodalModel
from mot_gen.packing import pack_rows
from mot_gen.recipes.recipe import Recipe
from mot_gen.sequence import PackedBatch
from mot_gen.training.build import build_tokenizers, load_splits, outline_model
from mot_gen.training.world import accumulation

SAMPLED = 4  # batches that are packed to learn how full the rows get


@dataclass(frozen=True)
class Cost:
    """The cost of a model on a workload. flops: of a training step. executed: the same as it is run here. causal:
    whether its likelihoods leak nothing."""

    flops: int
    executed: int
    active: int
    total: int
    causal: bool


@dataclass(frozen=True)
class Workload:
    """Some batches of a recipe's data, the tokenizers that made them, how many samples there are to train on, and how
    many bytes of tokenised media are kept between epochs."""

    tokenizers: Mapping[str, object]
    batches: list[PackedBatch]
    samples: int
    cached: int

    @classmethod
    def of(cls, recipe: Recipe) -> Workload:
        """Reads the texts of the data, and packs the first batches with blank pictures."""
        splits, training = load_splits(recipe), recipe.training
        tokenizers = build_tokenizers(recipe, splits)
        loader = Loader(splits.train, tokenizers, recipe.data, training, maker=BlankSpans)
        rows = islice(loader, SAMPLED)
        batches = [pack_rows(each, loader.modalities, training.row_length) for each in rows]
        cached = min(media_bytes(splits.train, tokenizers, recipe.data), recipe.data.cache_mb * 2**20)
        return cls(tokenizers, batches, len(splits.train), cached)

    def cost(self, recipe: Recipe) -> Cost:
        """The cost of a recipe that differs from the workload's only in its backbone."""
        model = outline_model(recipe, self.tokenizers)
        parameters, batches = count_parameters(model), accumulation(recipe.training, 1)
        return Cost(
            flops=batches * training_flops(model, self.batches),
            executed=batches * training_flops(model, self.batches, executed=True),
            active=parameters.active,
            total=parameters.total,
            causal=model.backbone.causal,
        )


def training_flops(model: MultimodalModel, batches: Sequence[PackedBatch], executed: bool = False) -> int:
    """FLOPs of learning from one batch, the mean of some: forward and backward, and the passes that an objective makes
    beside them to say what is to be learned (`extra_passes`). executed: as they are run here."""
    forward = sum(forward_flops(model, batch, executed) for batch in batches)
    extra = sum(getattr(objective, "extra_passes", 0) for objective in model.objectives.values())
    return (3 * forward + round(extra * forward)) // len(batches)
