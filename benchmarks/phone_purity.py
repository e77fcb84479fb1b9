"""Whether speech units tell phones apart: `python -m benchmarks.phone_purity [TOKENIZER]` prints JSON.

Sentences by many voices of espeak-ng, which says when each phone begins (extra `speech`). TOKENIZER: the folder of a
speech tokenizer; without one, the default is fitted to half of the speakers. On the other half, `phone_purity` of the
units; beside it, of the same units in random order, which is what chance gives with so many ids and so much speech.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch

from mot_gen.datasets.spoken import Spoken, draw_voice, speak
from mot_gen.files.audio_files import load_audio
from mot_gen.tokenizers.speech_measures import phone_purity
from mot_gen.tokenizers.speech_units import SpeechUnitTokenizer
from mot_gen.tokenizers.train_speech_units import SpeechTraining, train_speech_units

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "She sells fresh fish and chips by the harbour on Thursdays.",
    "A young judge gave both boys good advice about money.",
    "Why would anyone measure the weather with a wooden spoon?",
    "Five large zebras quietly watched the yellow moon rise.",
    "Please bring the thick blue book that you bought in June.",
    "His voice was rough after singing through the cold night.",
    "The chef chose cheese, ginger, and a pinch of sugar.",
    "We usually go there for pleasure rather than for work.",
    "Out of the garage came a shining red motor car.",
)


def speeches(speakers: int, seed: int) -> list[Spoken]:
    """Every sentence by each of so many voices."""
    rng = random.Random(seed)
    voices = [draw_voice(rng) for _ in range(speakers)]
    return speak([(text, voice) for voice in voices for text in SENTENCES])


def units_and_phones(tokenizer: SpeechUnitTokenizer, said: list[Spoken]) -> tuple[torch.Tensor, list[str]]:
    """The id of every unit's time, and the phone in the middle of it."""
    ids = tokenizer.unit_ids([tokenizer.waveform((each.samples, each.rate)) for each in said])
    rate = tokenizer.sample_rate / tokenizer.features.samples_per_unit
    phones = [each.phones_at((torch.arange(len(own)) + 0.5) / rate) for each, own in zip(said, ids)]
    return torch.cat(ids), [phone for own in phones for phone in own]


def main() -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer", nargs="?", type=Path)
    parser.add_argument("--speakers", type=int, default=60, help="of each half")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if args.tokenizer:
        tokenizer = SpeechUnitTokenizer.from_pretrained(args.tokenizer)
    else:
        tokenizer = SpeechUnitTokenizer()
        learned = [load_audio((s.samples, s.rate), tokenizer.sample_rate)[0] for s in speeches(args.speakers, 0)]
        train_speech_units(tokenizer, learned, SpeechTraining(steps=1))  # the decoder is not asked
    ids, phones = units_and_phones(tokenizer, speeches(args.speakers, 1))
    by_chance = ids[torch.randperm(len(ids))]
    return {
        "units": len(ids),
        "ids": tokenizer.modality.vocab_size,
        "phones": len(set(phones)),
        **phone_purity(ids, phones),
        "by_chance": phone_purity(by_chance, phones),
    }


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
