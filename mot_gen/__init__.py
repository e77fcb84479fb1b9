"""mot_gen: train, sample and measure models that read and write text, images and sound in one sequence.

The public names are offered flat and loaded on first use, so that `import mot_gen` needs neither transformers nor
diffusers: `from mot_gen import TextToImagePipeline, MultimodalModel, FrechetDistance`.
"""

import importlib
import sys

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
    "MultimodalConfig": "model_config",
    "TextTokenizer": "tokenizers.text",
    "PatchImageTokenizer": "tokenizers.image_patch",
    "LatentImageTokenizer": "tokenizers.image_latent",
    "ScalesImageTokenizer": "tokenizers.image_scales",
    "VQImageTokenizer": "tokenizers.image_vq",
    "SpeechUnitTokenizer": "tokenizers.speech_units",
    "SpeechCodecTokenizer": "tokenizers.speech_codec",
    "VectorTokenizer": "tokenizers.vector",
    "TextToImagePipeline": "pipelines.text_to_image",
    "ImageToTextPipeline": "pipelines.image_to_text",
    "ImageToImagePipeline": "pipelines.image_to_image",
    "TextGenerationPipeline": "pipelines.text_generation",
    "TextToSpeechPipeline": "pipelines.text_to_speech",
    "SpeechToTextPipeline": "pipelines.speech_to_text",
    "InterleavedPipeline": "pipelines.interleaved",
    "VectorPipeline": "pipelines.vectors",
    "MetricResult": "eval.result",
    "load_extractor": "eval.images.extractors",
    "ReferenceStatistics": "eval.images.statistics",
    "FrechetDistance": "eval.images.frechet",
    "FrechetInfinity": "eval.images.frechet_infinity",
    "KernelDistance": "eval.images.kernel",
    "InceptionScore": "eval.images.inception_score",
    "PrecisionRecall": "eval.images.precision_recall",
    "PSNR": "eval.images.image_pairs",
    "SSIM": "eval.images.image_pairs",
    "LPIPS": "eval.images.image_pairs",
    "CLIPScore": "eval.images.clip",
    "RefCLIPScore": "eval.images.clip",
    "RPrecision": "eval.images.clip",
    "GenEval": "eval.images.geneval",
    "OcrAccuracy": "eval.images.ocr",
    "Perplexity": "eval.text.likelihood",
    "BitsPerByte": "eval.text.likelihood",
    "BLEU": "eval.text.mt",
    "ChrF": "eval.text.mt",
    "TER": "eval.text.mt",
    "ROUGE": "eval.text.rouge",
    "CIDEr": "eval.text.cider",
    "METEOR": "eval.text.meteor",
    "ExactMatch": "eval.text.answers",
    "TokenF1": "eval.text.answers",
    "DistinctN": "eval.text.diversity",
    "SelfBLEU": "eval.text.diversity",
    "WordErrorRate": "eval.text.edits",
    "CharacterErrorRate": "eval.text.edits",
    "MatchErrorRate": "eval.text.edits",
    "WordInformationLost": "eval.text.edits",
    "UnitErrorRate": "eval.text.edits",
    "MelCepstralDistortion": "eval.speech.mel_cepstral",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name):
    if name not in _HOME:
        # With the module as `obj`, Python adds the closest name.
        raise AttributeError(f"module 'mot_gen' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    value = getattr(importlib.import_module(f"mot_gen.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
