"""mot_gen: train, sample and measure models that read and write text, images and sound in one sequence.

The public names are offered flat and loaded on first use, so that `import mot_gen` needs neither transformers nor
diffusers: `from mot_gen import TextToImagePipeline, MultimodalModel, FrechetDistance`.
"""

import importlib

__version__ = "0.1.0"

_HOME = {
    "InputError": "errors",
    "Modality": "sequence",
    "Span": "sequence",
    "Layout": "sequence",
    "PackedBatch": "sequence",
    "Vocabulary": "sequence",
    "pack": "packing",
    "unpack": "packing",
    "MultimodalModel": "model",
    "MultimodalConfig": "model",
    "TextTokenizer": "tokenizers.text",
    "PatchImageTokenizer": "tokenizers.image_patch",
    "LatentImageTokenizer": "tokenizers.image_latent",
    "TextToImagePipeline": "pipelines.text_to_image",
    "ImageToTextPipeline": "pipelines.image_to_text",
    "TextGenerationPipeline": "pipelines.text_generation",
    "FrechetDistance": "eval.frechet",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'mot_gen' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"mot_gen.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
