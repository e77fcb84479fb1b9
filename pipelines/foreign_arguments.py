"""Arguments of diffusers and transformers that pipelines here do not take, and what to give instead: refuse_unknown,
refuse_loading, refuse_variant."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import torch

from mot_gen.errors import InputError, nearest

# Arguments of other pipelines and of `generate`, and what does the same here.
CALLS = {
    "batch_size": "give a list of prompts; all of them are made together",
    "cfg_scale": "guidance_scale",
    "eta": "set it in the scheduler, as in DDIMScheduler",
    "image_url": "download the picture and give the file as image",
    "input_image": "image",
    "input_ids": "give the text as prompt",
    "inputs": "prompt",
    "mask": "mask_image",
    "max_length": "max_new_tokens, which does not count the prompt",
    "max_tokens": "max_new_tokens",
    "num_beams": "there is no beam search; do_sample=False is greedy",
    "num_generations": "num_images_per_prompt",
    "num_images": "num_images_per_prompt",
    "num_return_sequences": "give the prompt as many times in a list, with do_sample=True and a generator for each",
    "num_samples": "num_images_per_prompt",
    "num_steps": "num_inference_steps",
    "prompt_embeds": "give the text as prompt",
    "repetition_penalty": "logits_processor, with transformers' RepetitionPenaltyLogitsProcessor",
    "sampler": "set pipe.scheduler",
    "scheduler": "set pipe.scheduler",
    "seed": "generator=torch.Generator().manual_seed(N)",
    "stop_sequences": "stop",
    "stop_strings": "stop",
    "steps": "num_inference_steps",
    "text": "prompt",
    "texts": "prompt",
}


def refuse_unknown(pipeline: str, name: str, known: Collection[str]) -> InputError:
    """The error for an argument that a pipeline does not take, with what does the same here."""
    ours = CALLS.get(name, "")
    first_word = re.split(r"\W", ours)[0]
    if first_word in known:
        return InputError(f"{pipeline} takes no {name!r}; say {ours}")
    if " " in ours:  # a sentence; a bare name is advice only where this pipeline has it
        return InputError(f"{pipeline} takes no {name!r}; {ours}")
    return InputError(f"{pipeline} takes no {name!r}{nearest(name, known)}")


def refuse_loading(given: dict) -> torch.device | None:
    """Take `device_map` out of the arguments of `from_pretrained`. Returns the device that the pipeline is to be moved
    to, if one was named. InputError for what would split a model over devices."""
    device_map = given.pop("device_map", None)
    if device_map is None:
        return None
    if isinstance(device_map, dict) or device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        raise InputError(
            f"device_map={device_map!r}: the model is one part and is not split over devices; give one device, as "
            "device_map='cuda', or call enable_model_cpu_offload()"
        )
    try:
        return torch.device(device_map)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device_map={device_map!r} is no device; give one, as 'cuda' or 'cpu'") from error


def refuse_variant(folder: str | Path, variant: str | None) -> None:
    """InputError for a variant of the weights, as diffusers names them, that a folder does not hold."""
    if variant is not None and Path(folder).is_dir() and not any(Path(folder).rglob(f"*.{variant}.*")):
        raise InputError(f"variant={variant!r}: {folder} has no files of it; leave variant out, and say dtype instead")
