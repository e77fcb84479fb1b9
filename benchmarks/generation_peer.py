"""Beside transfusion-pytorch 0.20.0 (`pip install mot-gen[bench]`), in alternation: an image, and greedy text.

Image: 64 latents of 16 channels after a prompt of 32 tokens, 20 Euler evaluations, without guidance. Text: 128 tokens
greedily after the same prompt, with a cache in both. Models are untrained, a vocabulary of 512; ours is the
Mixture-of-Transformers as a pipeline loads it. At equal dimensions, and at equal parameters, for which ours is widened
to no fewer than the peer's; ours in fp32, in half storage (`--dtype fp16`) and in bf16. The peer is in fp32; in bf16
under autocast, since cast it refuses to draw; and with its linear layers held as ours in half storage, by PyTorch's
`quantize_dynamic`. A ratio is the peer's seconds of process CPU time over ours.
"""

import sys
import warnings
from collections.abc import Iterator
from copy import deepcopy
from functools import partial

import torch

from benchmarks import alternate
from benchmarks.training_step import IMAGE, TEXT
from mot_gen.backbone.routing import store_for_decoding
from mot_gen.model import MultimodalModel
from mot_gen.pipelines.engine import Drawing, Rules, Stream, TextSampling, Writer, draw
from mot_gen.sequence import Span

PROMPT, TOKENS, STEPS, WRITTEN = 32, 64, 20, 128
SIZES = [(256, 6), (512, 8)]  # dim, layers; heads of 64
HEAD = 64


@torch.inference_mode()
def run(repeats: int = 5) -> Iterator[dict]:
    for dim, layers in SIZES:
        torch.manual_seed(0)
        theirs = peer(dim, layers)
        wanted = parameters(theirs)
        models = {"dimensions": ours(dim, layers), "parameters": of_parameters(dim, layers, wanted)}
        models |= {f"{equal}, fp16": in_half(model) for equal, model in models.items()} | {
            f"{equal}, bf16": deepcopy(model).to(torch.bfloat16) for equal, model in models.items()
        }
        counts = {"peer": wanted, **{name: parameters(model) for name, model in models.items()}}
        for task, by_them, by_us in (("image", peer_image, image), ("text", peer_text, text)):
            prompt = torch.randint(512, (PROMPT,))
            actions = {name: by_us(model, prompt) for name, model in models.items()}
            seconds = alternate({**by_them(theirs, prompt), **actions}, repeats)
            ratios = {
                name: {equal: seconds[name] / seconds[equal] for equal in models}
                for name in seconds.keys() - models.keys()
            }
            yield {"task": task, "dim": dim, "layers": layers, "parameters": counts, "peer_over_ours_at_equal": ratios}


def parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


def ours(dim: int, layers: int) -> MultimodalModel:
    model = MultimodalModel(
        [vars(TEXT), vars(IMAGE)], {"kind": "mot", "dim": dim, "layers": layers, "heads": dim // HEAD}
    ).eval()
    with torch.no_grad():
        model.head.weight[TEXT.vocab_size :] = 0.0  # so that no text ends before its 128 tokens
    store_for_decoding(model)
    return model


def of_parameters(dim: int, layers: int, wanted: int) -> MultimodalModel:
    """The narrowest model of so many layers with at least as many parameters."""
    while parameters(model := ours(dim, layers)) < wanted:
        dim += HEAD
    return model


def in_half(model: MultimodalModel) -> MultimodalModel:
    model = deepcopy(model)
    model.enable_half_storage()
    return model


def image(model, prompt):
    drawing = Drawing(model.objectives["image"].scheduler(), STEPS, grids={"image": (8, 8)})

    def action():
        stream = Stream(model, [[Span("text", prompt)]], TOKENS, opens=["image"])
        draw(stream.open("image", [(8, 8)], torch.ones(1, dtype=torch.bool)), drawing)

    return action


def text(model, prompt):
    def action():
        stream = Stream(model, [[Span("text", prompt)]], WRITTEN + 1)
        writer = Writer(stream, 1, TextSampling(WRITTEN), Drawing(), Rules())
        assert len(writer.run()[0][0]) == WRITTEN

    return action


def peer(dim: int, layers: int):
    from transfusion_pytorch import Transfusion

    shape = {"dim": dim, "depth": layers, "dim_head": HEAD, "heads": dim // HEAD}
    euler = {"method": "euler"}
    return Transfusion(
        num_text_tokens=512, dim_latent=16, modality_default_shape=(TOKENS,), transformer=shape, odeint_kwargs=euler
    ).eval()


def peer_image(model, prompt) -> dict:
    """As it samples by default, without a cache, and with one. `modality_steps` are points in time, between which the
    Euler method evaluates once each."""
    quiet(model)
    options = {"force_modality_at_start": 0, "fixed_modality_shape": (TOKENS,), "cfg_scale": 1.0}
    options |= {"max_length": TOKENS - 1, "modality_steps": STEPS + 1}
    return {
        "peer": partial(model.sample_one, prompt, **options),
        "peer_fp16": partial(peer_in_half(model).sample_one, prompt, **options),
        "peer_cached": partial(model.sample_one, prompt, cache_kv=True, **options),
        "peer_autocast": torch.autocast("cpu", torch.bfloat16)(partial(model.sample_one, prompt, **options)),
    }


def peer_text(model, prompt) -> dict:
    """With its cache, as by default."""
    quiet(model)
    asked = (prompt[None], PROMPT + WRITTEN)
    write = partial(model.generate_text_only, *asked, temperature=0.0)
    return {
        "peer": write,
        "peer_fp16": partial(peer_in_half(model).generate_text_only, *asked, temperature=0.0),
        "peer_autocast": torch.autocast("cpu", torch.bfloat16)(write),
    }


def peer_in_half(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch moves what it quantizes by to a package of its own
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.float16)


def quiet(model) -> None:
    """Its progress bars and log lines are no part of what is compared."""
    from loguru import logger

    logger.remove()
    module = sys.modules[type(model).__module__]
    bar = module.tqdm
    module.tqdm = lambda *args, **options: bar(*args, **{"disable": True, **options})
