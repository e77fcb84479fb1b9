"""How fast tokenizers encode and decode, on one thread and on two. `python -m benchmarks tokenizers`

For each tokenizer: images (or megabytes of text) a second, batched and one at a time, and the ratio of the two. One
thread by its own CPU time; two by the wall clock, for which the machine must be quiet.
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
    """The least of `repeats` runs after a first; of one thread in CPU seconds: the load of others does not count."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    call()
    times = []
    for _ in range(repeats):
        began = clock()
        call()
        times.append(clock() - began)
    return min(times)


def rates(one: Callable, many: Callable, items: list, batch: int, amount: float) -> dict[str, float]:
    """amount (images, megabytes) a second of `many` over batches and of `one` over items, and their ratio."""
    batches = [items[i : i + batch] for i in range(0, len(items), batch)]
    together = seconds(lambda: [many(part) for part in batches])
    alone = seconds(lambda: [one(item) for item in items])
    return {"batched": amount / together, "one_at_a_time": amount / alone, "ratio": alone / together}


def run() -> Iterator[dict]:
    """One result a number of threads, a tokenizer and a direction."""
    given = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        yield from _images(threads)
    torch.set_num_threads(given)
    text = TextTokenizer.train(TEXTS, 512)
    megabytes = sum(len(t.encode()) for t in TEXTS) / 1e6
    encoded = rates(text.encode, text.encode_batch, TEXTS, len(TEXTS), megabytes)
    yield {"threads": given, "tokenizer": "text", "megabytes_per_second": "encoded"} | encoded


def _images(threads: int) -> Iterator[dict]:
    torch.manual_seed(0)
    images = list(torch.rand(IMAGES, 3, SIZE, SIZE))
    about = {"threads": threads, "torch": torch.__version__, "image_size": SIZE, "batch": BATCH}
    for name, make in (("patch", lambda: PatchImageTokenizer(SIZE, 4)), ("vq", small_vq), ("kl", small_kl)):
        tokenizer = make().eval()
        spans = tokenizer.encode_batch(images)
        encoded = rates(tokenizer.encode, tokenizer.encode_batch, images, BATCH, IMAGES)
        yield about | {"tokenizer": name, "images_per_second": "encoded"} | encoded
        decoded = rates(tokenizer.decode, tokenizer.decode_batch, spans, BATCH, IMAGES)
        yield about | {"tokenizer": name, "images_per_second": "decoded"} | decoded
