"""Hours of sound that speech tokenizers encode in an hour, one thread: prints JSON. `python -m benchmarks.speech_rates`

For each: batched, one recording at a time, and the ratio of the two. Recordings are of one length, as batches need; the
networks have random weights, which cost what trained ones do: HuBERT base's layer 6 (95 million parameters in all), a
HuBERT of two layers of width 64, EnCodec 24 kHz.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import torch

from benchmarks.tokenizers import rates
from mot_gen.tokenizers.speech_codec import SpeechCodecTokenizer
from mot_gen.tokenizers.speech_features import EncoderFeatures
from mot_gen.tokenizers.speech_units import SpeechUnitTokenizer

RECORDINGS, SECONDS = 16, 0.5
SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "conv_dim": (32,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def hubert(layer: int, **sizes) -> SpeechUnitTokenizer:
    tokenizer = SpeechUnitTokenizer(EncoderFeatures({"model_type": "hubert", **sizes}, layer).arguments)
    torch.nn.init.normal_(tokenizer.codebook.embedding.weight)
    return tokenizer.eval()


def log_mel() -> SpeechUnitTokenizer:
    tokenizer = SpeechUnitTokenizer()
    torch.nn.init.normal_(tokenizer.codebook.embedding.weight)
    return tokenizer.eval()


TOKENIZERS: dict[str, Callable] = {
    "log_mel": log_mel,
    "hubert_small": lambda: hubert(2, **SMALL),
    "hubert_base": lambda: hubert(6),
    "encodec_24khz": lambda: SpeechCodecTokenizer({"model_type": "encodec"}, codebooks=4).eval(),
}


def main() -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(TOKENIZERS), metavar="NAME", help=", ".join(TOKENIZERS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    report = {"threads": 1, "torch": torch.__version__, "recordings": RECORDINGS, "seconds_each": SECONDS}
    for name in args.names:
        tokenizer = TOKENIZERS[name]()
        sounds = list(0.1 * torch.randn(RECORDINGS, int(SECONDS * tokenizer.sample_rate)))
        encode, encode_batch = tokenizer.encode, tokenizer.encode_batch
        report[f"{name}_hours_encoded_an_hour"] = rates(encode, encode_batch, sounds, RECORDINGS, RECORDINGS * SECONDS)
    return report


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
