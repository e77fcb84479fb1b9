"""Direct preference optimization: of tokens (Rafailov et al. 2023, arXiv 2305.18290), and of pictures that are denoised
(Diffusion-DPO, Wallace et al. 2023, arXiv 2311.12908).

Both lose -log sigmoid(margin). Shapes: P pairs.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def token_margin(
    chosen: Tensor, rejected: Tensor, chosen_reference: Tensor, rejected_reference: Tensor, beta: float
) -> Tensor:
    """Log-probabilities of whole answers (P,), now and by the reference -> (P,):
    beta ((log p_w - log ref_w) - (log p_l - log ref_l))."""
    return beta * ((chosen - chosen_reference) - (rejected - rejected_reference))


def diffusion_margin(
    chosen: Tensor, rejected: Tensor, chosen_reference: Tensor, rejected_reference: Tensor, beta: float
) -> Tensor:
    """Errors of denoising (P,), of both answers at one time and with one noise, now and by the reference -> (P,):
    -beta ((e_w - ref_w) - (e_l - ref_l)). beta stands for the paper's beta T w(t), thousands for large models."""
    return -token_margin(chosen, rejected, chosen_reference, rejected_reference, beta)


def preference_loss(margin: Tensor) -> Tensor:
    """(P,) -> (P,): -log sigmoid(margin), log 2 where model and reference agree."""
    return -F.logsigmoid(margin)
