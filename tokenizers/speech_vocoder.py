"""Log-mel spectrograms to waveforms: griffin_lim, which needs no weights, and TransformersVocoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mot_gen.errors import InputError
from mot_gen.files.random_weights import refuse_random
from mot_gen.tokenizers.speech_features import MelSettings, mel_filters

ITERATIONS = 32
_MARGIN = 3  # frames added on both sides, cut off again with the ends that Griffin-Lim gets wrong


def magnitudes(log_mels: Tensor, mel: MelSettings, iterations: int = 100) -> Tensor:
    """(frames, n_mels) -> (n_fft // 2 + 1, frames): non-negative magnitudes whose mel bands are those given.

    Multiplicative updates for least squares (Lee and Seung, 2001), from the transposed filters on.
    """
    target = (torch.pow(10, log_mels) if mel.log10 else log_mels.exp()).mT
    filters = mel_filters(mel, log_mels.device)
    wanted, gram = filters.mT @ target, filters.mT @ filters
    spectrum = wanted + 1e-6
    for _ in range(iterations):
        spectrum = spectrum * wanted / (gram @ spectrum + 1e-9)
    return spectrum


def griffin_lim(log_mels: Tensor, mel: MelSettings, iterations: int = ITERATIONS) -> Tensor:
    """(frames, n_mels) -> (frames * hop_length,): phases found by alternating projections (Griffin and Lim, 1984).

    torchaudio's, with momentum (Perraudin et al., 2013) and from zero phases, so that it draws no random numbers.
    """
    import torchaudio

    spectrum = F.pad(magnitudes(log_mels.float(), mel)[None], (_MARGIN, _MARGIN), mode="replicate")[0]
    window = torch.hann_window(mel.win_length, device=log_mels.device)
    sound = torchaudio.functional.griffinlim(
        spectrum, window, mel.n_fft, mel.hop_length, mel.win_length, 1.0, iterations, 0.99, None, rand_init=False
    )
    # Its frames are centred on multiples of the hop, those of log_mel on the middle of their hop.
    start = _MARGIN * mel.hop_length - mel.hop_length // 2
    return sound[start : start + len(log_mels) * mel.hop_length]


class TransformersVocoder(nn.Module):
    """A HiFi-GAN of transformers (SpeechT5HifiGan, FastSpeech2ConformerHifiGan): (frames, n_mels) -> (T,).

    config: the vocoder's, as a dict with its architectures. Raises InputError where it does not fit the spectrogram.
    """

    def __init__(self, config: dict, mel: MelSettings):
        super().__init__()
        import transformers

        kind = getattr(transformers, (config.get("architectures") or ["?"])[0], None)
        if kind is None or not hasattr(kind.config_class(), "upsample_rates"):
            raise InputError(f"vocoder {config.get('architectures')} is not a HiFi-GAN that transformers has")
        self.network = kind(kind.config_class.from_dict(config)).eval()
        found = self.network.config
        takes = (found.model_in_dim, found.sampling_rate, math.prod(found.upsample_rates))
        given = (mel.n_mels, mel.sample_rate, mel.hop_length)
        if takes != given:
            names = "n_mels, sample_rate, hop_length"
            raise InputError(f"vocoder takes {names} = {takes}, the decoder's mel has {given}")

    @classmethod
    def from_pretrained(cls, folder, mel: MelSettings) -> TransformersVocoder:
        """With the weights from a folder or hub name; raises InputError where there are none."""
        from transformers import PretrainedConfig

        try:
            config = PretrainedConfig.get_config_dict(folder)[0]
            vocoder = cls(config, mel)
            vocoder.network, loading = type(vocoder.network).from_pretrained(folder, output_loading_info=True)
            vocoder.network.eval()
        except InputError as error:
            raise InputError(f"{folder}: {error}") from error
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: no vocoder found in this folder or hub name") from error
        refuse_random(vocoder.network, loading, folder, "give a trained vocoder")
        return vocoder.requires_grad_(False)

    def forward(self, log_mels: Tensor) -> Tensor:
        return self.network(log_mels.to(self.network.dtype)).flatten().float()
