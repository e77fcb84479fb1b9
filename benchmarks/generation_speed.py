"""What a token and a preview cost, at 512 x 8: over the bare products, and eight prompts over eight times one.

Decoding is greedy, after a prompt of 32 tokens, by the Mixture-of-Transformers as a pipeline loads it. Bare: the matrix
products of a step and nothing else, with the weights as they are stored. Preview: the expected clean picture after
every one of 20 steps, decoded to pixels, over the same drawing without.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from benchmarks import alternate
from benchmarks.generation_peer import PROMPT, STEPS, ours
from mot_gen.objectives.flow import Objective
from mot_gen.pipelines.engine import Drawing, Stream, draw
from mot_gen.sequence import Span
from mot_gen.tokenizers.image_patch import PatchImageTokenizer


@torch.inference_mode()
def run(repeats: int = 20) -> Iterator[dict]:
    torch.manual_seed(0)
    model = ours(512, 8)
    one, eight = (decoding(model, batch) for batch in (1, 8))
    seconds = alternate({"step": one, "eight": eight, "bare": bare(model)}, repeats)
    yield {"decode_step_over_bare_matmuls": seconds["step"] / seconds["bare"]}
    yield {"throughput_of_8_prompts_over_1": 8 * seconds["step"] / seconds["eight"]}
    seconds = alternate({name: drawing(model, name == "with") for name in ("with", "without")}, max(repeats // 4, 3))
    yield {"previews_cost": seconds["with"] / seconds["without"] - 1}


def decoding(model, batch: int):
    """One greedy token in each of so many documents."""
    prompts = [[Span("text", torch.randint(512, (PROMPT,)))] for _ in range(batch)]
    stream = Stream(model, prompts, room=512)

    def step():
        stream.append(model.head(stream.hidden)[:, :512].argmax(-1), modality="text")

    return step


def bare(model):
    """The products of one text token, first tower."""
    blocks = model.backbone.blocks
    weights = [w[0] for b in blocks for w in (b.qkv.weight, b.out.weight, b.ffn.gate_up.weight, b.ffn.down.weight)]
    given = [(torch.randn(1, w.shape[1]), w) for w in [*weights, model.head.weight]]

    def products():
        for x, weight in given:
            F.linear(x, weight)

    return products


def drawing(model, with_previews: bool):
    """A picture of 8 x 8 patches of 4 x 4 grey pixels."""
    tokenizer, prompt = PatchImageTokenizer((32, 32), 4, 1), [Span("text", torch.randint(512, (PROMPT,)))]

    def preview(step):
        tokenizer.decode_batch([Span("image", values, (8, 8)) for values in step.clean()])
        return step.x

    how = Drawing(Objective().scheduler(), STEPS, on_step=preview if with_previews else None)

    def action():
        stream = Stream(model, [prompt], 64, opens=["image"])
        draw(stream.open("image", [(8, 8)], torch.ones(1, dtype=torch.bool)), how)

    return action
