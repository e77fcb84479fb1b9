"""Golden entries of the commands: every --help, and the JSON of plan, data and eval on inputs made on the fly."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import soundfile
from PIL import Image

from benchmarks.golden_models import DATA
from benchmarks.golden_tools import command, scratch, subcommands, told


def asked(*words: str) -> dict:
    """The JSON that a command prints."""
    return told(json.loads(command(*words)))


def planned(*words: str) -> dict:
    """The JSON of `plan`, but for what it says of the process that plans, which differs every time."""
    facts = asked("plan", *words, "--json")
    return {name: fact for name, fact in facts.items() if name not in ("process_bytes", "resident_bytes")}


def helps() -> dict:
    """Every --help, in lines."""
    return {" ".join(words) or "mot-gen": command(*words, "--help").splitlines() for words in subcommands()}


def plans(recipe: str) -> dict:
    """As shipped, its tokenizers and data small; and what meets a budget, and what sixteen processes need."""
    small = [text for text in DATA.get(recipe, []) if "train" not in text]
    ask = partial(planned, recipe, *small)
    found = {"plain": ask(), "sixteen": ask("--processes", "16", "--vocabulary", "32000", "training.parallel=hsdp")}
    return found | {solve: ask("--flops", "1e15", "--solve", solve) for solve in ("steps", "width")}


def data(recipe: str) -> dict:
    """What `data` says of a recipe's samples."""
    small = [text for text in DATA.get(recipe, []) if "train" not in text]
    return {what: asked("data", what, recipe, *small, "--json") for what in ("validate", "stats")}


TEXTS = [
    ("the cat sat on the mat .", ["the cat is on the mat .", "there is a cat on the mat ."]),
    ("", ["something was said"]),
    ("Ein naïver Café-Besuch kostet 3,50 €!", ["Ein naiver Cafébesuch kostet 3,50 €.", "Ein Besuch"]),
    ("猫がマットの上に座った。", ["猫はマットに座った。", "猫がマットの上に座っている。"]),
    ("a dog runs, quickly; through the park", ["a dog is running through the park quickly"]),
    ("the the the the the the the", ["the cat is on the mat", "there is a cat on the mat"]),
    ("roter apfel", ["Roter Apfel"]),
]
TEXT_METRICS = (
    "bleu,chrf,chrf++,ter,rouge,cider-d,cider,meteor,exact_match,token_f1,distinct_1,distinct_2,self_bleu,bits_per_byte"
)


def eval_text() -> dict:
    """All names, with intervals; and with other tokenizers."""
    lines = [
        {"id": str(n), "prediction": said, "references": wanted, "nats": 10.5 + n}
        for n, (said, wanted) in enumerate(TEXTS)
    ]
    file, other = records("texts", lines), ["--tokenize", "intl", "--rouge-tokenize", "unicode", "--lowercase"]
    return {
        "all": asked("eval", "text", file, "--metrics", TEXT_METRICS, "--confidence", "0.95", "--json", "-"),
        "other": asked("eval", "text", file, "--metrics", "bleu,chrf,ter,rouge", *other, "--json", "-"),
    }


def records(name: str, lines: list[dict]) -> str:
    """A file of JSON lines."""
    file = scratch() / f"{name}.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(file)


def eval_speech() -> dict:
    """Transcripts, units, and recordings of chirps."""
    said = [{"id": str(n), "prediction": text, "references": own[:1]} for n, (text, own) in enumerate(TEXTS)]
    units = [{"id": "0", "prediction": [1, 2, 2, 3], "references": [[1, 2, 3, 3, 4]]}]
    sounds = []
    for n in range(3):
        made, real = (chirp(f"{kind}-{n}.wav", n, noise) for kind, noise in (("made", 0.02), ("real", 0.0)))
        sounds.append({"id": str(n), "prediction_audio": made, "reference_audio": real})
    given = {"wer,cer,mer,wil": records("said", said), "uer": records("units", units)}
    given["mcd,fad"] = records("sounds", sounds)
    return {names: asked("eval", "speech", file, "--metrics", names, "--json", "-") for names, file in given.items()}


def chirp(name: str, number: int, noise: float) -> str:
    """A second and a half at 8 kHz beside the jsonl; its name."""
    at = np.linspace(0, 1.5, 12000, endpoint=False)
    wave = 0.4 * np.sin(2 * np.pi * (200 + 150 * number + 600 * at) * at)
    wave += noise * np.random.default_rng(number).standard_normal(len(at))
    soundfile.write(scratch() / name, wave.astype(np.float32), 8000)
    return name


def eval_images() -> dict:
    """Sets by pixels and by the offline network, pairs, and statistics in the place of real images."""
    sets = [images("real", 40, 1), images("fake", 30, 2)]
    few = [images("few-real", 12, 3), images("few-fake", 12, 4)]
    statistics = str(scratch() / "real.npz")
    ask = partial(_asked_of_images, "--extractor", "pixels")
    return {
        "pixels": ask("images", *sets, "--metrics", "fd,kd,cmmd,pr,fdinf", "--confidence", "0.9"),
        "network": _asked_of_images("images", *few, "--metrics", "fd,kd,is", "--splits", "3"),
        "pairs": ask("images", *few, "--metrics", "psnr,ssim", "--confidence", "0.9"),
        "stats": ask("stats", sets[0], "-o", statistics),
        "by statistics": ask("images", statistics, sets[1], "--metrics", "fd"),
    }


def _asked_of_images(*words: str) -> object:
    """`eval images` or `eval stats`; an extractor may stand before it."""
    options, rest = (words[:2], words[2:]) if words[0].startswith("--") else ((), words)
    return asked("eval", *rest, *options, "--no-cache", "--workers", "1", "--json", "-")


def images(name: str, count: int, seed: int) -> str:
    """A folder of coloured noise over slopes."""
    folder, rng = scratch() / name, np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    slope = np.linspace(0, 120, 16)[None, :, None]
    for number in range(count):
        pixels = slope * rng.random(3) + rng.integers(0, 130, (12, 16, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03d}.png")
    return str(folder)


def eval_geneval() -> object:
    """One sample found, one missing."""
    seen = [{"class": "apple", "score": 0.9, "box": [0, 0, 10, 10]}]
    wanted = {"tag": "single_object", "include": [{"class": "apple", "count": 1}], "exclude": []}
    lines = [{**wanted, "detections": seen}, {**wanted, "detections": []}]
    return asked("eval", "geneval", records("detections", lines), "--json", "-")
