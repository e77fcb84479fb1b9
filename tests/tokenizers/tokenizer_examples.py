"""A small instance of every tokenizer class, with raw pieces it can encode: what the contract tests run on."""

import math

import diffusers
import torch
import transformers

from mot_gen.tokenizers.image_features import ImageFeatureTokenizer
from mot_gen.tokenizers.image_latent import LatentImageTokenizer
from mot_gen.tokenizers.image_patch import PatchImageTokenizer
from mot_gen.tokenizers.image_vq import VQImageTokenizer
from mot_gen.tokenizers.image_vq_networks import VQNetworkTokenizer
from mot_gen.tokenizers.speech_codec import SpeechCodecTokenizer
from mot_gen.tokenizers.speech_units import SpeechUnitTokenizer
from mot_gen.tokenizers.text import TextTokenizer
from mot_gen.tokenizers.train_image import small_scales
from mot_gen.tokenizers.train_speech_units import SpeechTraining, train_speech_units
from mot_gen.tokenizers.vector import VectorTokenizer


def kl(**kwargs):
    config = {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 4,
        "latent_channels": 4,
        "sample_size": 16,
    }
    return seeded(diffusers.AutoencoderKL, **(config | kwargs))


def tiny():
    return seeded(
        diffusers.AutoencoderTiny,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )


def dc():
    return seeded(
        diffusers.AutoencoderDC,
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types=("ResBlock",) * 2,
        decoder_block_types=("ResBlock",) * 2,
        encoder_block_out_channels=(8, 16),
        decoder_block_out_channels=(8, 16),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        scaling_factor=0.4,
    )


def seeded(build, *args, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(*args, **kwargs).eval()


def pictures(n, *shape):
    return list(torch.rand(n, *shape, generator=torch.Generator().manual_seed(1)))


def vq_model(**kwargs):
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    # A spatial norm always has 32 groups.
    sizes = {"block_out_channels": (32, 32), "norm_num_groups": 8, "latent_channels": 32, "num_vq_embeddings": 32}
    model = seeded(diffusers.VQModel, **blocks, **sizes, sample_size=16, **kwargs)
    torch.nn.init.normal_(model.quantize.embedding.weight, generator=torch.Generator().manual_seed(2))
    return model


def chirp(number):
    """A second at 16 kHz of six harmonics whose pitch sweeps up or down, at a rate of its own."""
    time = torch.arange(16000) / 16000
    phase = 2 * math.pi * (120 + 40 * number) * (time + (-1) ** number * 0.4 * time**2)
    return 0.1 * sum(torch.sin(k * phase) / k for k in range(1, 7))


def speech_tokenizer(steps=80, **config):
    sizes = {"unit_channels": 48, "unit_layers": 1, "frame_channels": 48, "frame_layers": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = SpeechUnitTokenizer(vocab_size=20, decoder_config=sizes, **config)
        options = SpeechTraining(steps=steps, batch_size=4, crop_units=25, lr=1e-2, warmup_steps=5)
        return train_speech_units(tokenizer, [chirp(number) for number in range(6)], options)


def codec(kind="dac"):
    """A tiny random codec of 16 kHz and three to four codebooks of 16 entries."""
    shared = {"sampling_rate": 16000, "codebook_size": 16}
    convolutions = shared | {"num_filters": 4, "hidden_size": 16, "upsampling_ratios": [8, 5, 4]}
    if kind == "dac":
        sizes = {"encoder_hidden_size": 8, "decoder_hidden_size": 32, "n_codebooks": 3, "codebook_dim": 4}
        config = transformers.DacConfig(**shared, **sizes, downsampling_ratios=[4, 8, 10])
    elif kind == "encodec":
        config = transformers.EncodecConfig(
            **convolutions, target_bandwidths=[0.4, 1.6], codebook_dim=16, num_lstm_layers=1, num_residual_layers=1
        )
    else:
        layers = {"num_hidden_layers": 1, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
        books = {"codebook_dim": 8, "vector_quantization_hidden_dimension": 8, "num_quantizers": 4}
        config = transformers.MimiConfig(**convolutions, **layers, **books, upsample_groups=16)
    model = seeded(transformers.AutoModel.from_config, config)
    generator = torch.Generator().manual_seed(2)
    for name, buffer in model.named_buffers():
        if "embed" in name:  # a random codebook, as wide as what it quantises
            buffer.normal_(std=0.05, generator=generator)
    return model


def codec_tokenizer(kind="dac", **config):
    model = codec(kind)
    tokenizer = SpeechCodecTokenizer(model.config.to_diff_dict(), **config).eval()
    tokenizer.codec.load_state_dict(model.state_dict())
    return tokenizer


def feature_tokenizer():
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1}
    rule = {"long": 20, "short": 8, "stride": 4}
    return seeded(ImageFeatureTokenizer, vision, rule, patch_size=4, side=5).eval()


def vq_network():
    """Janus' network, tiny and random."""
    config = {"embed_dim": 8, "num_embeddings": 50, "latent_channels": 8, "base_channels": 32, "num_patches": 4}
    config |= {"channel_multiplier": [1, 1, 1], "num_res_blocks": 1}
    return seeded(VQNetworkTokenizer, "JanusVQVAE", config, 16).eval()


TEXTS = ["a handwritten seven", "", "é e\u0301 👩\u200d🚀\x00 </s> <|image|>"]

# class name -> (make the tokenizer, raw pieces, largest error of a round trip, None where the code is lossy)
EXAMPLES = {
    "ImageFeatureTokenizer": (feature_tokenizer, pictures(3, 3, 16, 20), None),
    "TextTokenizer": (lambda: TextTokenizer.train(["a handwritten seven and a nine"] * 3, 270), TEXTS, 0),
    "VQNetworkTokenizer": (vq_network, pictures(3, 3, 16, 16), None),
    "PatchImageTokenizer": (lambda: PatchImageTokenizer((8, 12), 2), pictures(3, 3, 8, 12), 1e-6),
    "LatentImageTokenizer": (
        lambda: LatentImageTokenizer.from_autoencoder(kl(), (16, 24), 2),
        pictures(3, 3, 16, 24),
        None,
    ),
    "SpeechUnitTokenizer": (speech_tokenizer, [chirp(number) for number in range(3)], None),
    "SpeechCodecTokenizer": (codec_tokenizer, [chirp(number) for number in range(3)], None),
    "ScalesImageTokenizer": (
        lambda: small_scales(8, [1, 2, 4], 12, fold=2, widths=[8], color_channels=1),
        pictures(3, 1, 8, 8),
        None,
    ),
    "VectorTokenizer": (
        lambda: VectorTokenizer(3, mean=[1.0, -1.0, 0.0], deviation=[2.0, 0.5, 1.0]),
        [torch.randn(4 + number, 3) for number in range(3)],
        1e-6,
    ),
    "VQImageTokenizer": (lambda: VQImageTokenizer.from_network(vq_model(), (16, 24)), pictures(3, 3, 16, 24), None),
}
