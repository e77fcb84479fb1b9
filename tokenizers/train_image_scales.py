"""How a recipe trains the tokenizer `image_scales`: Training, untrained, train, measure."""

from mot_gen.tokenizers.image_recipe import measure, train
from mot_gen.tokenizers.train_image import VQTraining as Training
from mot_gen.tokenizers.train_image import small_scales as untrained

__all__ = ["Training", "measure", "train", "untrained"]
