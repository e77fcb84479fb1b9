"""Golden entries of small models: losses, the first rows of loaders, weights as training begins.

RECIPES are the shipped ones at small size, their kinds kept; BACKBONES is every kind of backbone with what can be
stated of it, on the digits; SETTINGS are other objectives and ways to train.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import torch

import mot_gen
from benchmarks.golden_tools import (
    CHECKPOINT,
    command,
    count_parameters,
    digest,
    digest_of_all,
    initial_model,
    load_recipe,
    loaded,
    loader_of,
    packed,
    scratch,
    seeds,
    tensors_in,
    train,
)  # fmt: skip

RECIPES = ("digits", "transfusion", "chameleon", "chameleon-speech", "openmoji")

LOOP = [
    "training.steps=20", "training.warmup_steps=5", "training.rows=4", "training.log_every=1",
    "training.sample_every=0", "training.checkpoint_every=1000", "training.device=cpu", "training.threads=1",
    "training.peak_flops=1e12", "sampling.num_inference_steps=4", "sampling.max_new_tokens=8",
]  # fmt: skip
SHAPE = ["backbone.dim=48", "backbone.layers=2", "backbone.heads=4", "backbone.ffn_dim=96"]
IMAGE = ["tokenizers.image.widths=[16]", "tokenizers.image.train.steps=20", "tokenizers.image.train.batch_size=16"]
DATA = {
    "transfusion": IMAGE,
    "chameleon": IMAGE,
    "chameleon-speech": [
        *IMAGE, "data.options.speakers=8", "data.options.written=0.2", "tokenizers.speech.vocab_size=40",
        "tokenizers.speech.train={steps: 20, max_vectors: 4000}",
    ],
    "openmoji": [*IMAGE, "data.options.each=2", "tokenizers.text.vocab_size=600"],
}  # fmt: skip

TRANSFORMER = "dim: 32, layers: 2, heads: 4, ffn_dim: 48"
MAMBA = "dim: 32, layers: 2"
BACKBONES = {
    "dense": f"kind: dense, {TRANSFORMER}",
    "mot": f"kind: mot, {TRANSFORMER}",
    "moe4x": f"kind: moe4x, {TRANSFORMER}",
    "hybrid": f"kind: hybrid, {TRANSFORMER}",
    "symbiotic": f"kind: symbiotic, {TRANSFORMER}",
    "mamba": f"kind: mamba, {MAMBA}, bidirectional: two_pass",
    "mom": f"kind: mom, {MAMBA}, bidirectional: two_pass",
    "mamba-causal": f"kind: mamba, {MAMBA}, bidirectional: causal",
    "mom-causal": f"kind: mom, {MAMBA}, bidirectional: causal, untied: [in_proj, out_proj]",
    "moe4x-token-choice": f"kind: moe4x, {TRANSFORMER}, router: token_choice, top_k: 2, shared_experts: 1",
    "mot-experts": f"kind: mot, {TRANSFORMER}, experts: {{text: 2, image: 3}}, router: token_choice",
    "mot-ffn": f"kind: mot, {TRANSFORMER}, untied: [ffn, ffn_norm]",
    "mot-attention": f"kind: mot, {TRANSFORMER}, untied: [qkv, qk_norm, attention_norm, out]",
    "mot-output-norm": f"kind: mot, {TRANSFORMER}, norm: output, kv_heads: 2",
    "mot-qwen": f"kind: mot, {TRANSFORMER}, qkv_bias: true, qk_norm: false, activation: gelu, head_dim: 10",
    "mot-widths": f"kind: mot, {TRANSFORMER}, widths: {{image: 16}}",
    "mot-one-tower": f"kind: mot, {TRANSFORMER}, towers: {{all: [text, image]}}",
    "mot-grid": f"kind: mot, {TRANSFORMER}, positions: {{image: grid}}",
    "mot-unet": f"kind: mot, {TRANSFORMER}, patch_layers: {{image: {{kind: unet, width: 8}}}}",
    "mot-frozen": f"kind: mot, {TRANSFORMER}, frozen: [text], lr_factors: {{image: 0.5}}",
}
MOT = [f"backbone={{{BACKBONES['mot']}}}"]
SETTINGS = {
    "diffusion": [*MOT, "objectives.image={kind: diffusion, prediction: v, cap: 0.5, weight: 2.0}"],
    "flow-sample": [*MOT, "objectives.image={kind: flow, prediction: sample, time: uniform, shift: 2.0}"],
    "muon": ["backbone={kind: mot, dim: 64, layers: 1, heads: 4, ffn_dim: 64}", "training.optimizer=muon"],
    "bf16": [*MOT, "training.precision=bf16"],
    "accumulated": [*MOT, "training.accumulate=2", "training.gradient_checkpointing=true", "training.ema=0.0"],
    "augmented": [*MOT, "data.augment={degrees: 10.0, shift: 0.1, scale: 0.1}"],
}
ADAPTED = [
    f"training.init={CHECKPOINT}",
    f"tokenizers.text={{kind: text, path: {CHECKPOINT}/text_tokenizer}}",
    f"tokenizers.image={{kind: image_latent, path: {CHECKPOINT}/image_tokenizer}}",
    "backbone.lora={towers: [image], rank: 2}", "data.options.each=2", "training.rows=1", "training.steps=3",
]  # fmt: skip


def runs() -> dict[str, tuple[str, list[str]]]:
    """Name of each small run -> recipe and overrides."""
    found = {name: (name, [*LOOP, *SHAPE, "evaluation.every=20", *DATA.get(name, [])]) for name in RECIPES}
    few = [*LOOP, "training.steps=5", "training.warmup_steps=2", "training.rows=2"]
    found |= {f"digits {name}": ("digits", [*few, f"backbone={{{text}}}"]) for name, text in BACKBONES.items()}
    found |= {f"digits {name}": ("digits", [*few, *options]) for name, options in SETTINGS.items()}
    return found | {"openmoji adapted": ("openmoji", [*LOOP, "training.warmup_steps=1", *ADAPTED])}


def recipe_of(run: str):
    """The recipe of a small run."""
    return load_recipe(*runs()[run])


# ---------------------------------------------------------------- losses, weights, rows


def losses(run: str) -> dict:
    """Of each step, and what came of it."""
    folder = scratch() / run.replace(" ", "-")
    done = train(recipe_of(run), folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    tokenizers = {}
    for report in sorted((folder / "tokenizers").glob("*/report.json")):
        kept = json.loads(report.read_text(encoding="utf-8"))
        tokenizers[report.parent.name] = {name: value for name, value in kept.items() if "second" not in name}
    return {
        "losses": {name: [line["losses"].get(name) for line in lines] for name in done.tokenizers},
        "grad_norm": [line["grad_norm"] for line in lines],
        "tokens": done.tokens,
        "flops": done.flops,
        "held_out": [line["held_out"] for line in lines if "held_out" in line],
        "tokenizers": tokenizers,
        "weights": digest_of_all(dict(done.averaged.named_parameters())),
        "made": made(folder / "model"),
    }


def made(checkpoint: Path) -> dict:
    """What a small model draws, writes and says, from its own folder; nearly untrained, so bits and not sense."""
    pipe = loaded(mot_gen.TextToImagePipeline, checkpoint)
    parts = pipe.components | {"sampling": None}  # for texts and sounds the usual settings, not the checkpoint's own
    texts, prompts = mot_gen.TextGenerationPipeline(**parts), ["a", "the digit one"]
    images = pipe(prompts, generator=seeds(2), output_type="pt").images
    found = {
        "images": digest(images),
        "image_mean": float(images.double().mean()),
        "captions": mot_gen.ImageToTextPipeline(**parts)(list(images)).texts,
        "texts": texts(prompts).texts,
        "sampled": texts(prompts, do_sample=True, top_k=50, generator=seeds(2)).texts,
    }
    if parts.get("speech_tokenizer") is not None:
        speak = mot_gen.TextToSpeechPipeline(**parts)
        units = speak(prompts, generator=seeds(2), max_new_tokens=12, output_type="units").audios
        found["units"] = [torch.as_tensor(each).tolist() for each in units]
        sound = speak(prompts, generator=seeds(2), max_new_tokens=12)
        found["sound"] = [digest(each) for each in sound.audios]
        heard = [(each, sound.sampling_rate) for each in sound.audios]
        found["heard"] = mot_gen.SpeechToTextPipeline(**parts)(heard).texts
    return found


def weights(run: str) -> dict:
    """Every initial value, and what `plan` counts."""
    model = initial_model(recipe_of(run))
    recipe, overrides = runs()[run]
    plan = json.loads(command("plan", recipe, *overrides, "--json"))
    for measured in ("process_bytes", "resident_bytes"):  # of the process that plans
        del plan[measured]
    return {"parameters": parameters(model), **count_parameters(model), "plan": plan}


def parameters(model) -> dict:
    """Name -> shape, hash."""
    return {name: [*p.shape, digest(p, 12)] for name, p in sorted(model.named_parameters())}


def shipped_weights() -> dict:
    """Of the checkpoint, as a pipeline loads them."""
    pipe = loaded(mot_gen.TextToImagePipeline)
    return {"parameters": parameters(pipe.model), "image_tokenizer": parameters(pipe.image_tokenizer)}


def rows(recipe: str) -> dict:
    """The first fifty, in batches of ten."""
    small = recipe_of(recipe)
    small.training.rows = 10
    loader = loader_of(small, scratch() / f"{recipe}-rows")
    batches = [dict(tensors_in(packed(loader, dealt))) for dealt in islice(loader, 5)]
    kept = {name: {number: batch[name] for number, batch in enumerate(batches)} for name in batches[0]}
    position = {name: value for name, value in loader.state_dict().items() if name != "index"}
    loader.close()
    return {"position": position, "hashes": {name: digest_of_all(values) for name, values in kept.items()}}
