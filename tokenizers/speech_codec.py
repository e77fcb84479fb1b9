"""SpeechCodecTokenizer: recordings as the codes of a neural codec (EnCodec, Mimi, DAC of transformers), and back.

A codec writes K codes a frame, one of each of K codebooks, the first the coarsest (residual vector quantisation). Here
each code is a token of its own, ids k * codebook_size + code, in one of two orders of the places (frame t, codebook k):

    interleaved   frame by frame: (0, 0) (0, 1) (0, 2) (1, 0) (1, 1) (1, 2) ...
    delayed       codebook k stands k frames later (MusicGen, arXiv 2306.05284, figure 1), so that a frame's coarse code
                  comes before the finer codes of the frames ahead of it: (0, 0) (1, 0) (0, 1) (2, 0) (1, 1) (0, 2) ...

Models: EnCodec (arXiv 2210.13438), DAC (arXiv 2306.06546), Mimi (Moshi, arXiv 2410.00037).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import ModelMixin  # noqa: F401  a pipeline looks for ModelMixin here
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn import functional as F

from mot_gen.errors import InputError, nearest
from mot_gen.files.audio_files import load_audio
from mot_gen.files.random_weights import refuse_random
from mot_gen.sequence import Modality, Span
from mot_gen.sequence.moving import upload
from mot_gen.tokenizers.pretrained import NetworkTokenizer
from mot_gen.tokenizers.speech_features import of_equal_length

PATTERNS = ("interleaved", "delayed")
# model_type -> the fields of its config that give the samples of a frame, and the number of codebooks
_FAMILIES = {
    "encodec": ("hop_length", "num_quantizers"),
    "mimi": ("frame_size", "num_quantizers"),
    "dac": ("hop_length", "n_codebooks"),
}


class SpeechCodecTokenizer(NetworkTokenizer):
    """A recording (see mot_gen.files.audio_files) <-> a span of (frames * codebooks,) ids.

    codec_config: that of the codec, as a dict with its model_type. codebooks: how many of the codec's, the coarsest
    first; all of them without. pattern: the order of the codes, "delayed" or "interleaved".
    """

    discrete = True  # its tokens are ids

    @register_to_config
    def __init__(
        self, codec_config: dict, codebooks: int | None = None, pattern: str = "delayed", name: str = "speech"
    ):
        super().__init__()
        from transformers import AutoConfig, AutoModel

        fields = dict(codec_config)
        kind = fields.pop("model_type")
        if kind not in _FAMILIES:
            raise InputError(f"codec {kind!r} is not known" + nearest(kind, _FAMILIES))
        if pattern not in PATTERNS:
            raise InputError(f"pattern {pattern!r} is not known" + nearest(pattern, PATTERNS))
        self.codec = AutoModel.from_config(AutoConfig.for_model(kind, **fields)).eval()
        found, (frame, count) = self.codec.config, _FAMILIES[kind]
        if getattr(found, "audio_channels", 1) != 1 or getattr(found, "normalize", False):
            raise InputError(
                f"codec {kind} keeps channels or a scale beside its codes; take one for mono, such as 24 kHz"
            )
        available = getattr(found, count)
        if codebooks is not None and not 1 <= codebooks <= available:
            raise InputError(f"codebooks must lie in 1 to the {available} of this codec, got {codebooks}")
        self.codebooks, self.codebook_size = codebooks or available, found.codebook_size
        self.samples_per_frame = int(getattr(found, frame))

    @classmethod
    def from_codec(
        cls, codec, codebooks: int | None = None, pattern: str = "delayed", **config
    ) -> SpeechCodecTokenizer:
        """On a codec from a folder or hub name, such as facebook/encodec_24khz, kyutai/mimi or descript/dac_24khz."""
        from transformers import AutoModel

        try:
            network, loading = AutoModel.from_pretrained(codec, output_loading_info=True)
        except (OSError, ValueError) as error:
            raise InputError(f"{codec}: no neural codec found in this folder or hub name") from error
        refuse_random(network, loading, codec, "give a trained codec")
        tokenizer = cls(network.config.to_diff_dict(), codebooks, pattern, **config)
        tokenizer.codec = network.eval()
        return tokenizer.eval()

    @property
    def modality(self) -> Modality:
        return Modality(self.config.name, vocab_size=self.codebooks * self.codebook_size)

    @property
    def sample_rate(self) -> int:
        """Hz, of what `decode` gives and of bare samples that `encode` is given."""
        return self.codec.config.sampling_rate

    def encode(self, raw) -> Span:
        """A path, bytes, (samples, rate), or samples at `sample_rate` -> a span; errors as load_audio."""
        return self.encode_batch([raw])[0]

    def encode_batch(self, raws: Sequence) -> list[Span]:
        """Many recordings, those of equal length in one pass; the same spans as one by one, on the CPU."""
        codes = of_equal_length(self._codes, [self.waveform(raw) for raw in raws])
        return [Span(self.config.name, self.flatten(each.cpu())) for each in codes]

    def decode(self, span: Span) -> Tensor:
        """A span -> float samples (T,) in [-1, 1] at `sample_rate`, `samples_per_frame` for each whole frame of codes.

        A span that a model was cut off in has codes of frames that are not whole: these are left out. Raises InputError
        for ids of another tokenizer, and where no frame is whole.
        """
        return self.decode_batch([span])[0]

    def decode_batch(self, spans: Sequence[Span]) -> list[Tensor]:
        """Many spans, those of equally many frames in one pass."""
        return of_equal_length(self._sounds, [self.unflatten(span).to(self.device) for span in spans])

    def waveform(self, raw) -> Tensor:
        """A raw recording -> (T,) at `sample_rate`, zeros added up to a whole number of frames."""
        samples, _ = load_audio(raw, self.sample_rate)
        return upload(F.pad(samples, (0, -len(samples) % self.samples_per_frame)), self.device)

    def flatten(self, codes: Tensor) -> Tensor:
        """(K, frames) codes -> (K * frames,) ids in the order of the pattern."""
        k, t = codes.shape
        ids = codes + self.codebook_size * torch.arange(k, device=codes.device)[:, None]
        return ids.flatten()[self._order(k, t).to(codes.device)]

    def unflatten(self, span: Span) -> Tensor:
        """A span -> (K, frames) codes. The n-th id of a codebook is that of frame n, whichever order they come in."""
        ids, size = span.values, self.codebook_size * self.codebooks
        if ids.ndim != 1 or not len(ids) or ids.min() < 0 or ids.max() >= size:
            bounds = f"expected (n,) ids of 0 to {size - 1}"
            raise InputError(f"{self.config.name} span of shape {tuple(ids.shape)}: {bounds}")
        columns = [ids[ids // self.codebook_size == k] % self.codebook_size for k in range(self.codebooks)]
        frames = min(map(len, columns))
        if not frames:
            raise InputError(
                f"{self.config.name} span of {len(ids)} ids holds no whole frame of {self.codebooks} codes"
            )
        return torch.stack([column[:frames] for column in columns])

    def _order(self, codebooks: int, frames: int) -> Tensor:
        """(K * frames,) places in a (K, frames) table, in the order in which they are written."""
        k, t = torch.meshgrid(torch.arange(codebooks), torch.arange(frames), indexing="ij")
        step = t + k if self.config.pattern == "delayed" else t
        return (step * codebooks + k).flatten().argsort()

    @torch.no_grad()
    def _codes(self, waveforms: Tensor) -> Tensor:
        """(B, T) -> (B, K, frames)."""
        options = {}
        if hasattr(self.codec.config, "target_bandwidths"):
            options["bandwidth"] = self.codec.config.target_bandwidths[-1]  # EnCodec takes its fewest codebooks else
        codes = self.codec.encode(waveforms[:, None].to(self.codec.dtype), **options).audio_codes
        codes = codes[0] if codes.ndim == 4 else codes  # EnCodec's chunks, of which 24 kHz has one
        frames = waveforms.shape[1] // self.samples_per_frame
        return codes[:, : self.codebooks, :frames]

    @torch.no_grad()
    def _sounds(self, codes: Tensor) -> Tensor:
        """(B, K, frames) -> (B, T)."""
        if self.codec.config.model_type == "encodec":
            sounds = self.codec.decode(codes[None], [None]).audio_values
        else:
            sounds = self.codec.decode(audio_codes=codes).audio_values
        length = codes.shape[-1] * self.samples_per_frame
        sounds = sounds.flatten(1)[:, :length].float()
        return F.pad(sounds, (0, length - sounds.shape[1])).clamp(-1, 1)
