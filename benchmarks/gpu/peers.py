"""What stands beside our pipelines: diffusers' DiT and transformers' Llama, of equal width, depth and heads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.gpu.models import TINY, image_tokenizer, text_tokenizer
from benchmarks.gpu.pipelines import PROMPT
from benchmarks.gpu.setting import Setting
from mot_gen.backbone.sizes import SIZES


def dit(size: str, setting: Setting) -> nn.Module:
    """A DiT over patches of the same number and values as those of our pictures."""
    from diffusers import DiTTransformer2DModel

    own = setting.pick(SIZES[size], TINY)
    torch.manual_seed(0)
    built = DiTTransformer2DModel(
        num_attention_heads=own["heads"],
        attention_head_dim=own["dim"] // own["heads"],
        num_layers=own["layers"],
        in_channels=image_tokenizer(setting).modality.channels,
        sample_size=setting.pick(16, 4),
        patch_size=1,
        norm_num_groups=1,
    )
    return built.to(setting.device, setting.dtype).eval()


def dit_pictures(built: nn.Module, count: int, steps: int, setting: Setting) -> Callable[[], object]:
    """So many pictures at once by diffusers' Euler steps of flow matching, without guidance."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler()
    side, channels = setting.pick(16, 4), image_tokenizer(setting).modality.channels
    labels = torch.zeros(count, dtype=torch.long, device=setting.device)

    @torch.inference_mode()
    def action():
        scheduler.set_timesteps(steps, device=setting.device)
        latents = torch.randn(count, channels, side, side, device=setting.device, dtype=setting.dtype)
        for time in scheduler.timesteps:
            output = built(latents, timestep=time.expand(count), class_labels=labels).sample
            latents = scheduler.step(output, time, latents).prev_sample
        return latents.cpu()

    return action


def llama(size: str, setting: Setting) -> nn.Module:
    """A Llama whose feed-forward is as wide as ours."""
    from transformers import LlamaConfig, LlamaForCausalLM

    own = setting.pick(SIZES[size], TINY)
    config = LlamaConfig(
        vocab_size=text_tokenizer().modality.vocab_size,
        hidden_size=own["dim"],
        intermediate_size=-(-8 * own["dim"] // 3 // 256) * 256,
        num_hidden_layers=own["layers"],
        num_attention_heads=own["heads"],
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(setting.device, setting.dtype).eval()


def llama_texts(built: nn.Module, count: int, tokens: int, setting: Setting) -> Callable[[], object]:
    """So many greedy texts at once by `generate`, with its own cache, of so many tokens each."""
    span = text_tokenizer().encode(PROMPT)
    ids = span.values.to(setting.device).expand(count, -1)
    how = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    return lambda: built.generate(ids, attention_mask=torch.ones_like(ids), **how).cpu()
