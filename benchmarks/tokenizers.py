"""How fast tokenizers encode and decode on one thread. `python -m benchmarks tokenizers`

For each tokenizer: images (or megabytes of text) a second, batched and one at a time, and the ratio of the two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

from mot_gen.tokenizers.image_patch import PatchImageTokenizer
from mot_gen.tokenizers.text import TextTokenizer
from mot_gen.tokenizers.train_image import small_kl, small_vq

IMAGES, BATCH, SIZE = 128, 64, 32
TEXTS = ["a handwritten seven, drawn with a thick pen", "the digit nine in the lower corner"] * 256


def seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """CPU seconds of one thread, the least of `repeats` runs after one that warms up: others' load does not count."""
    call()
    times = []
    for _ in range(repeats):
        began = time.thread_time()
        call()
        times.append(time.thread_time() - began)
    return min(times)


def rates(one: Callable, many: Callable, items: list, batch: int, amount: float) -> dict[str, float]:
    """amount (images, megabytes) a second of `many` over batches and of `one` over items, and their ratio."""
    batches = [items[i : i + batch] for i in range(0, len(items), batch)]
    together = seconds(lambda: [many(part) for part in batches])
    alone = seconds(lambda: [one(item) for item in items])
    return {"batched": amount / together, "one_at_a_time": amount / alone, "ratio": alone / together}


def run() -> Iterator[dict]:
    """One result a tokenizer and direction."""
    torch.manual_seed(0)
    images = list(torch.rand(IMAGES, 3, SIZE, SIZE))
    about = {"threads": 1, "torch": torch.__version__, "image_size": SIZE, "batch": BATCH}
    for name, make in (("patch", lambda: PatchImageTokenizer(SIZE, 4)), ("vq", small_vq), ("kl", small_kl)):
        tokenizer = make().eval()
        spans = tokenizer.encode_batch(images)
        encoded = rates(tokenizer.encode, tokenizer.encode_batch, images, BATCH, IMAGES)
        yield about | {"tokenizer": name, "images_per_second": "encoded"} | encoded
        decoded = rates(tokenizer.decode, tokenizer.decode_batch, spans, BATCH, IMAGES)
        yield about | {"tokenizer": name, "images_per_second": "decoded"} | decoded
    text = TextTokenizer.train(TEXTS, 512)
    megabytes = sum(len(t.encode()) for t in TEXTS) / 1e6
    encoded = rates(text.encode, text.encode_batch, TEXTS, len(TEXTS), megabytes)
    yield {"threads": 1, "tokenizer": "text", "megabytes_per_second": "encoded"} | encoded
