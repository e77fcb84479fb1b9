"""What half storage (`--dtype fp16`), bf16 and `compile_repeated_blocks` bring to an image and to greedy text of
`generation_peer`, on one thread.

An image: 64 latents, 20 evaluations; text: 128 tokens; each after a prompt of 32. A ratio is the eager fp32 model's
seconds of process CPU time over another's, in alternation; the time that compiling takes is not in it and stands
beside: wall-clock seconds of the first image and text together.
"""

import time
from collections.abc import Iterator
from copy import deepcopy

import torch

from benchmarks import alternate
from benchmarks.generation_peer import PROMPT, SIZES, image, in_half, ours, text


@torch.inference_mode()
def run(repeats: int = 8) -> Iterator[dict]:
    for dim, layers in SIZES:
        torch.manual_seed(0)
        plain = ours(dim, layers)
        models = {"fp32": plain, "bf16": deepcopy(plain).to(torch.bfloat16)}
        models |= {f"{name}, compiled": deepcopy(model) for name, model in models.items()}
        models["fp16"] = in_half(plain)  # which is not compiled
        prompt, compiling = torch.randint(512, (PROMPT,)), {}
        for name, model in models.items():
            if "compiled" in name:
                model.compile_repeated_blocks()
                began = time.perf_counter()
                image(model, prompt)(), text(model, prompt)()
                compiling[name] = round(time.perf_counter() - began, 1)
        for task, make in (("image", image), ("text", text)):
            seconds = alternate({name: make(model, prompt) for name, model in models.items()}, repeats)
            ratios = {name: round(seconds["fp32"] / seconds[name], 2) for name in models if name != "fp32"}
            yield {"task": task, "dim": dim, "layers": layers, "fp32_over": ratios, "first_seconds": compiling}
