"""The sections of a recipe, each a small class with its defaults, checked when it is built.

`Data` (data_section.py, with `Records`, `Rehearsal` and `Augment`), `Tokenizer` and `Objective` (one a modality),
`Backbone`, `Training`, `Sampling`, `Evaluation` and `Reinforce` (with `Reward`). Numbers have types of their own, in
values.py: `Count`, `Whole`, `Share`, `Positive`, ...
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mot_gen.recipes.data_section import Augment, Data, Records, Rehearsal, one_or_many
from mot_gen.recipes.values import Component, Count, Decay, NonNegative, Positive, Real, Section, Switch, Whole

__all__ = [
    "Augment",
    "Backbone",
    "Component",
    "Data",
    "Evaluation",
    "Lora",
    "Objective",
    "Phase",
    "Records",
    "Rehearsal",
    "Reinforce",
    "Reward",
    "Sampling",
    "Section",
    "Teacher",
    "Tokenizer",
    "Training",
]


class Tokenizer(Component):
    """A module under `mot_gen.tokenizers`; its options are checked when it is built, or when the recipe is read if it
    is to be trained, which the module `train_KIND` beside it does (see mot_gen/training/trained_tokenizers.py)."""

    path: str | None = None  # loaded: a folder, a hub name that was fetched, or openmoji/image_tokenizer (shipped)
    train: dict[str, Any] | None = None  # options of its training on the run's own samples; {} for its defaults


class Objective(Component):
    """A module under `mot_gen.objectives` (next_token, flow, diffusion), with an `Objective` that takes the options."""

    weight: NonNegative = 1.0  # of this modality's loss in the sum; Transfusion gives images 5


class Lora(Section):
    """In a recipe: adapters that learn in the place of everything else."""

    towers: Annotated[list[str], Field(min_length=1)]
    rank: Annotated[int, Field(strict=True, ge=1)] = 8
    alpha: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] = 16.0
    layers: list[str] = []  # the projections that get one: qkv, out, gate_up, down, ...; [] = all


class Backbone(Component):
    """A preset (dense, mot, moe4x, hybrid, mamba, mom) or a module under `mot_gen.backbone`, whose `Config` takes the
    options: size or dim, ..."""

    kind: str = "mot"
    frozen: list[str] = []  # towers that do not learn
    lr_factors: dict[str, NonNegative] = {}  # tower: factor on the learning rate
    lora: Lora | None = None  # adapters that learn in the place of everything else; needs training.init
    patch_layers: dict[str, dict[str, Any]] = {}  # continuous modality: {kind: linear or unet, and its options}
    token_layers: dict[str, dict[str, Any]] = {}  # discrete modality that is apart: options of its own layers (Janus)
    embedding_scale: Positive = 1.0  # what embedded tokens are multiplied by (Gemma)
    positions: dict[str, Literal["sequence", "grid"]] = {}  # modality: one position a token, or one a span (BAGEL)


class Teacher(Section):
    """In a recipe: a trained model that the trained one learns from, see `mot_gen.training.teacher`."""

    model: str  # a model's folder, or a shipped checkpoint's name
    data: NonNegative = 1.0  # weight of the data's own losses
    outputs: NonNegative = 1.0  # weight of what the teacher's outputs teach
    logits: Literal["kl", "mse"] = "kl"  # how logits are compared; latents are by mean square
    temperature: Positive = 1.0  # of both models' logits
    layers: list[tuple[Whole, Whole]] = []  # of this model and of the teacher, that are compared
    hidden: NonNegative = 1.0  # weight of what layers teach
    layer_loss: Literal["cosine", "mse"] = "cosine"
    where: Literal["mixer", "layer"] = "mixer"  # what a mixer writes, or the residual stream after the layer


class Phase(Section):
    """In a recipe: what does not learn, and at which rate towers learn, up to a step (Symbiotic-MoE's shielding)."""

    until: Count  # the first step that is of the next phase
    frozen: list[str] = []
    lr_factors: dict[str, NonNegative] = {}


class Training(Section):
    """The loop: AdamW or Muon, linear warm-up, cosine from `lr` to `min_lr`."""

    steps: Count = 1000  # optimizer steps
    epochs: NonNegative = 0.0  # passes over the data, instead of steps; 0 = as steps says
    seed: Whole = 0
    init: str | None = None  # a model's folder, or a shipped checkpoint's name, whose weights training begins with
    teacher: Teacher | None = None  # a trained model to learn from as well
    consistency: NonNegative = 0.0  # THOR: weight of the distance between two passes of each batch; 0 = one pass
    learns: list[str] = []  # names of the only parts that learn: mixer's qkv, ffn, head, ...; [] = all
    frozen_layers: Whole = 0  # the first layers, which do not learn, nor the embedding
    phases: list[Phase] = []  # up to their steps in the place of backbone.frozen and lr_factors
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: for the backbone's matrices, on whole models
    lr: Positive = 3e-4
    min_lr: NonNegative = 1.5e-5
    warmup_steps: Whole = 100
    weight_decay: NonNegative = 0.1
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    eps: Positive = 1e-8
    clip: NonNegative = 1.0  # the largest gradient norm; 0 = off
    spike: NonNegative = 0.0  # skip steps whose gradient norm is this many times the usual; 0 = off
    row_length: Count = 512  # slots a row
    rows: Count = 8  # rows a batch, on each process
    accumulate: Count = 1  # batches an optimizer step, on each process
    global_rows: Whole = 0  # rows an optimizer step on all processes together, instead of accumulate; 0 = not fixed
    parallel: Literal["auto", "ddp", "fsdp", "hsdp"] = "auto"  # how many processes share one model, docs/scaling.md
    shard: Whole = 0  # hsdp: processes that share one copy of the weights; 0 = those of one machine
    patience: Positive = 1800.0  # seconds that processes wait for one another before the run is given up
    gradient_checkpointing: Switch = False  # recompute blocks in the backward pass: less memory, 4/3 of the time
    ema: Decay = 0.0  # decay of the averaged weights; 0 = off
    log_every: Count = 10
    watch: list[Literal["tensorboard", "wandb"]] = []  # where lines of metrics.jsonl go besides; extras of their names
    peak_flops: NonNegative = 0.0  # a device's FLOPs a second, for MFU; 0 = measured by a matrix product at the start
    checkpoint_every: Count = 500
    keep_checkpoints: Count = 3
    sample_every: Whole = 0  # 0 = never
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: Switch | Literal["auto"] = "auto"  # blocks, by torch.compile; auto: on a GPU, where one program serves
    tf32: Switch = True  # on a GPU: fp32 products round their factors to 10 bits of mantissa, as TF32 does
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Whole = 0  # of torch on a CPU; 0 = torch's own choice
    workers: Whole = 0  # threads that decode and tokenise ahead; 0 = in line
    max_corrupt: Whole = 10  # samples that may be unreadable or too long before training stops

    @model_validator(mode="after")
    def _rates_descend(self):
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr ({self.min_lr}) is above lr ({self.lr}); lower it")
        ends = [phase.until for phase in self.phases]
        if ends != sorted(set(ends)):
            raise ValueError(f"phases must end one after the other, got until {ends}")
        return self


class Sampling(Section):
    """How samples are drawn, during training and by default afterwards."""

    num_inference_steps: Count = 50
    guidance_scale: NonNegative = 3.0  # 1 = conditional, 0 = unconditional
    choose_guidance: Switch = False  # at the end of a run, on held-out data; the checkpoint has what was chosen
    temperature: NonNegative = 1.0  # 0 = greedy
    top_p: Annotated[float, Field(strict=True, gt=0, le=1)] = 1.0
    max_new_tokens: Count = 64
    speech_guidance_scale: NonNegative = 1.0  # of spoken units
    speech_temperature: NonNegative = 1.0
    image_temperature: NonNegative = 1.0  # of pictures that are discrete tokens
    image_top_k: Whole = 0  # the likeliest ids that they are drawn from; 0 = all
    image_top_p: Annotated[float, Field(strict=True, gt=0, le=1)] = 1.0
    published: dict[str, Any] = {}  # further defaults of a converted model, as its pipelines have them


class Evaluation(Section):
    """What is measured along the way and at the end."""

    samples: Count = 500  # pictures drawn, and captions written, each time
    batch_size: Count = 100  # of them generated together
    every: Whole = 0  # steps between evaluations, which the last step always has; 0 = none on the way
    metrics: list[str] = []  # of `mot-gen eval`: fd, kd, cmmd, pr, clip, bleu, cider-d, exact_match, bits_per_byte, ...
    extractor: str = "efficientnet-lite0"  # of features: a name as in `mot-gen eval images`; pixels for tiny pictures
    weights: str | None = None  # local weights of the extractor
    clip: str | None = None  # folder of the CLIP of the metrics clip and refclip
    prompts: list[str] = []  # shown in sample grids
    report: Switch = True  # whether a run on pictures ends with figures and report.html


class Reward(Component):
    """What samples are worth: a metric of `mot-gen eval`, one of mot_gen/reinforce/rewards.py, or `package.module:name`
    of your own; options beside it."""

    weight: Real = 1.0  # in the sum; below 0 where less is better


def weighed(value: Any) -> Any:
    """Rewards as names with weights, or with options -> as what `Reward` is made of. A name is its own kind unless it
    gives one."""
    if not isinstance(value, dict):
        return value
    sections = {}
    for name, each in value.items():
        given = {"weight": each} if isinstance(each, (int, float)) else each
        sections[name] = {"kind": name, **given} if isinstance(given, dict) else given
    return sections


Rewards = Annotated[dict[str, Reward], BeforeValidator(weighed)]


class Reinforce(Section):
    """Learning from rewards, in the place of the objectives' own losses or beside them; docs/reinforce.md."""

    method: Literal["grpo", "nft", "dpo"] = "grpo"
    writes: Annotated[list[str], Field(min_length=1)] = ["image"]  # what is sampled, in order
    given: Literal["caption", "image", "nothing"] | None = None  # what a sample begins with; None = what data offer
    prompts: Count = 8  # a step, on all processes together
    group: Annotated[int, Field(strict=True, ge=2)] = 16  # samples of each prompt
    rewards: Rewards = {}
    watched: Rewards = {}  # measured on the same samples and never rewarded
    reference: str | None = None  # a model's folder that the penalty holds to; None = training.init
    preferences: Annotated[list[str], BeforeValidator(one_or_many)] = []  # dpo: files of prompt, chosen, rejected
    updates: Count = 1  # optimizer updates with the samples of one step
    divide: Switch = True  # advantages by the deviation of their group; false = Dr. GRPO
    average: Literal["answer", "token"] = "answer"  # over each answer first, or over all tokens of all answers
    clip: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.2  # of the ratio of probabilities, below
    clip_high: Positive | None = None  # and above; None = as below
    penalty: NonNegative = 0.02  # on the distance to the reference; 0 = none
    velocity_penalty: Switch = False  # of pictures: on the velocity (UniGRPO) and not on the sampler's Gaussians
    data_weight: NonNegative = 0.0  # of the objectives' own losses on the data, learned beside (PPO-ptx)
    data_every: Count = 1  # read the data in every so many steps, with so many times the weight
    beta: Positive = 0.1  # dpo: of texts
    image_beta: Positive = 50.0  # dpo: of pictures, by their errors of denoising
    least_gap: NonNegative = 0.0  # dpo: by which the rewards of a judged pair must differ at least
    nft_beta: Positive = 1.0  # nft: smaller moves further beyond what is good
    draws: Count = 2  # dpo, nft: times and noises of each picture, in a step
    sampler: Literal["cps", "sde"] = "cps"  # of continuous pictures while training
    noise: NonNegative = 0.7  # of that sampler
    solver: Literal["euler", "unipc"] | None = None  # dpo, nft: of a flow, while training; None = the objective's own
    num_inference_steps: Count = 10  # while training; sampling.num_inference_steps are more
    learned_steps: Whole = 0  # of them, others for each picture, that have noise and are learned from; 0 = all
    temperature: Positive = 1.0  # of tokens while training
    max_new_tokens: Count = 24
    experts: NonNegative = 0.0  # weight of the ratio of routing probabilities (MoE-GRPO)

    @model_validator(mode="after")
    def _something_teaches(self):
        if self.method != "dpo" and not self.rewards:
            raise ValueError("rewards: none is given; name at least one, as in rewards={judge: 1.0}")
        if self.method == "dpo" and not self.rewards and not self.preferences:
            raise ValueError("dpo needs preferences=FILE, or rewards that judge its own samples in pairs")
        if self.noise == 0 and self.method == "grpo":
            raise ValueError("noise: a sampler without noise chooses nothing, so nothing could be learned; give 0.7")
        if self.solver is not None and self.method == "grpo":
            raise ValueError("solver: grpo draws by its own sampler; leave it out, and see sampler and noise")
        if self.solver is not None and "image" not in self.writes:
            raise ValueError("solver: it draws pictures, and writes names none; leave it out")
        both = sorted(self.rewards.keys() & self.watched.keys())
        if both:
            raise ValueError(f"watched: {both[0]!r} is also a reward; give it another name, and a kind")
        return self
