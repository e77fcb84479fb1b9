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
    "VQImageTokenizer": "tokenizers.image_vq",
    "SpeechUnitTokenizer": "tokenizers.speech_units",
    "SpeechCodecTokenizer": "tokenizers.speech_codec",
    "TextToImagePipeline": "pipelines.text_to_image",
    "ImageToTextPipeline": "pipelines.image_to_text",
    "ImageToImagePipeline": "pipelines.image_to_image",
    "TextGenerationPipeline": "pipelines.text_generation",
    "TextToSpeechPipeline": "pipelines.text_to_speech",
    "SpeechToTextPipeline": "pipelines.speech_to_text",
    "InterleavedPipeline": "pipelines.interleaved",
    "MetricResult": "eval.result",
    "load_extractor": "eval.extractors",
    "ReferenceStatistics": "eval.statistics",
    "FrechetDistance": "eval.frechet",
    "FrechetInfinity": "eval.frechet_infinity",
    "KernelDistance": "eval.kernel",
    "InceptionScore": "eval.inception_score",
    "PrecisionRecall": "eval.precision_recall",
    "PSNR": "eval.image_pairs",
    "SSIM": "eval.image_pairs",
    "LPIPS": "eval.image_pairs",
    "CLIPScore": "eval.clip",
    "RefCLIPScore": "eval.clip",
    "RPrecision": "eval.clip",
    "GenEval": "eval.geneval",
    "OcrAccuracy": "eval.ocr",
    "Perplexity": "eval.likelihood",
    "BitsPerByte": "eval.likelihood",
    "BLEU": "eval.mt",
    "ChrF": "eval.mt",
    "TER": "eval.mt",
    "ROUGE": "eval.rouge",
    "CIDEr": "eval.cider",
    "METEOR": "eval.meteor",
    "ExactMatch": "eval.answers",
    "TokenF1": "eval.answers",
    "DistinctN": "eval.diversity",
    "SelfBLEU": "eval.diversity",
    "WordErrorRate": "eval.edits",
    "CharacterErrorRate": "eval.edits",
    "MatchErrorRate": "eval.edits",
    "WordInformationLost": "eval.edits",
    "UnitErrorRate": "eval.edits",
    "MelCepstralDistortion": "eval.mel_cepstral",
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
