"""What the cache and the batched pair of guidance save, at a prefix of 512 tokens and 512 x 8.

Each ratio is the slower way over the engine's: a text token without a cache, batches of 1 and 8; a denoising step of a
64-token picture without a cached prefix; guidance as two passes.
"""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks import alternate
from benchmarks.training_step import IMAGE, TEXT, model
from mot_gen.packing import pack_prompts
from mot_gen.pipelines.engine import Stream
from mot_gen.sequence import Span

PREFIX = 512


@torch.inference_mode()
def run(repeats: int = 5) -> Iterator[dict]:
    torch.manual_seed(0)
    built = model("mot").eval()
    for batch in (1, 8):
        yield {"text_token_uncached_over_cached": text_token(built, batch, repeats), "batch": batch}
    yield {"denoising_step_uncached_over_cached": denoising_step(built, repeats)}
    yield {"guidance_two_passes_over_one_pair": guidance(built, repeats)}


def prompts(count: int) -> list[list[Span]]:
    return [[Span("text", torch.randint(512, (PREFIX - 2,)), learned=False)] for _ in range(count)]


def whole_pass(built, documents, opens=None):
    """One forward pass over whole documents, as generation without a cache needs for every token or step."""
    batch, _ = pack_prompts(documents, [TEXT, IMAGE], opens)
    for latents in batch.latents.values():
        latents.time = torch.full((len(latents.grids),), 0.5)
    return lambda: built(batch)


def text_token(built, count: int, repeats: int) -> float:
    documents = prompts(count)
    stream = Stream(built, documents, room=repeats + 2)
    ids = torch.zeros(count, dtype=torch.long)

    def cached():
        built.head(stream.hidden)
        stream.append(ids, modality="text")

    seconds = alternate({"cached": cached, "uncached": whole_pass(built, documents)}, repeats)
    return seconds["uncached"] / seconds["cached"]


def denoising_step(built, repeats: int) -> float:
    documents, values = prompts(1), torch.randn(1, 64, 16)
    picture = Span("image", values[0], (8, 8))
    uncached = whole_pass(built, [[*documents[0], picture]])
    seconds = alternate(
        {"cached": partial(open_picture(built, documents), values, torch.tensor(0.5)), "uncached": uncached}, repeats
    )
    return seconds["uncached"] / seconds["cached"]


def guidance(built, repeats: int) -> float:
    documents, time = [*prompts(1), []], torch.tensor(0.5)
    values = torch.randn(2, 64, 16)
    pair = open_picture(built, documents)
    alone = [open_picture(built, [document]) for document in documents]

    def two_passes():
        for number, span in enumerate(alone):
            span(values[number : number + 1], time)

    seconds = alternate({"pair": lambda: pair(values, time), "two": two_passes}, repeats)
    return seconds["two"] / seconds["pair"]


def open_picture(built, documents):
    stream = Stream(built, documents, room=66, opens=["image"] * len(documents))
    return stream.open("image", [(8, 8)] * len(documents), torch.ones(len(documents), dtype=torch.bool))
