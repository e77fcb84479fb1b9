"""How well a speech tokenizer keeps speech: speech_report, and what it is made of: agreement, mel_distance; and how
well its units tell phones apart: phone_purity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.files.audio_files import load_audio
from mot_gen.tokenizers.measure_image import codebook_use
from mot_gen.tokenizers.speech_features import MelSettings, at_level, log_mel

QUIETER = 10 ** (-3 / 20)  # 3 dB


def agreement(ids: Tensor, reference: Tensor) -> float:
    """1 less the edit distance of (m,) to (n,) ids over n, at least 0: 1 where they are the same."""
    import torchaudio

    return max(0.0, 1 - torchaudio.functional.edit_distance(ids.tolist(), reference.tolist()) / len(reference))


def speech_report(tokenizer, recordings: Sequence) -> dict[str, float]:
    """Numbers about what a speech tokenizer makes of raw recordings, means weighted by units:

    gain_agreement: of the units of a copy 3 dB quieter, in 16 bits; reencoding_agreement: of the units of the decoded
    sound; both as `agreement`. mel_distance: of the decoded sound, mean absolute difference of natural log-mels, 40 dB
    deep, over the time both have. codebook_use and codebook_perplexity; recordings; seconds; units_per_second.
    """
    sounds = [load_audio(raw, tokenizer.sample_rate)[0] for raw in recordings]
    spans = tokenizer.encode_batch(sounds)
    ids = [span.values for span in spans]
    quieter = [(sound.clamp(-1, 1) * QUIETER * 2**15).round().to(torch.int16) for sound in sounds]
    decoded = [sound.cpu() for sound in tokenizer.decode_batch(spans)]
    n = torch.tensor([float(len(i)) for i in ids])
    seconds = sum(map(len, sounds)) / tokenizer.sample_rate

    def mean(values: list[float]) -> float:
        return ((torch.tensor(values) * n).sum() / n.sum()).item()

    def mean_agreement(others: list[Tensor]) -> float:
        units = tokenizer.encode_batch(others)
        return mean([agreement(span.values, own) for span, own in zip(units, ids)])

    return {
        "gain_agreement": mean_agreement(quieter),
        "reencoding_agreement": mean_agreement(decoded),
        "mel_distance": mean([mel_distance(*pair, tokenizer.sample_rate) for pair in zip(decoded, sounds)]),
        **codebook_use(torch.cat(ids), tokenizer.modality.vocab_size),
        "recordings": len(sounds),
        "seconds": seconds,
        "units_per_second": n.sum().item() / seconds,
    }


def mel_distance(one: Tensor, two: Tensor, sample_rate: int) -> float:
    """Mean absolute difference of the natural log-mels of two sounds (T,) at one level, over the time both have."""
    mel = MelSettings(sample_rate, f_max=sample_rate / 2)
    frames = [log_mel(at_level(sound)[None], mel)[0] for sound in (one, two)]
    shorter = min(map(len, frames))
    return (frames[0][:shorter] - frames[1][:shorter]).abs().mean().item()


def phone_purity(ids: Tensor, phones: Sequence[str]) -> dict[str, float]:
    """How units (N,) go with the phones heard at the same times, as HuBERT measures it (arXiv 2106.07447, IV-C):

    phone_purity: share of units whose phone is the commonest of their id. cluster_purity: share of phones whose id is
    the commonest of their phone. pnmi: mutual information of the two over the entropy of phones, 0 to 1. N of the
    order of 100 times the number of ids, else chance alone makes the first and the last large.
    """
    if len(ids) != len(phones) or not len(ids):
        raise InputError(f"phone purity needs a phone for each unit, and some; got {len(phones)} for {len(ids)}")
    numbers = {phone: number for number, phone in enumerate(sorted(set(phones)))}
    codes, rows = torch.tensor([numbers[phone] for phone in phones]), ids.long().cpu()
    counts = torch.zeros(int(rows.max()) + 1, len(numbers), dtype=torch.float64)
    joint = counts.index_put_((rows, codes), counts.new_ones(()), accumulate=True) / len(rows)
    unit, phone = joint.sum(1), joint.sum(0)
    shared = torch.special.xlogy(joint, joint) - torch.special.xlogy(joint, unit[:, None] * phone)
    entropy = -torch.special.xlogy(phone, phone).sum()
    return {
        "phone_purity": joint.amax(1).sum().item(),
        "cluster_purity": joint.amax(0).sum().item(),
        "pnmi": (shared.sum() / entropy).item() if entropy > 0 else 1.0,
    }
