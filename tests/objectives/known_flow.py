"""A flow that is known in closed form, from a mixture of Gaussians, and the targets that a model teaches itself."""

import torch

from mot_gen.training.self_teaching import teacher_batches, teacher_flops, teacher_targets

MEANS, SPREAD = torch.tensor([-1.5, 0.5, 2.0], dtype=torch.float64), 0.3


def mixture_velocity(x, t):
    """The velocity of the flow from a mixture of Gaussians, one channel: x and t broadcast, float64.

    Given the component m, x_t is normal with mean (1 - t) m and variance (1 - t)^2 s^2 + t^2, and E[e - x | x_t, m] is
    linear in x_t.
    """
    x, t = x[..., None], t[..., None]
    variance = (1 - t) ** 2 * SPREAD**2 + t**2
    offset = x - (1 - t) * MEANS
    weight = torch.softmax(-(offset**2) / (2 * variance), -1)
    each = -MEANS + (t - (1 - t) * SPREAD**2) / variance * offset
    return (weight * each).sum(-1)


def mixture_step(x, t, d, pieces=100):
    """The mean velocity of that flow from t to t - d, by the classical Runge-Kutta method."""
    h, start = d / pieces, x
    for number in range(pieces):
        now = t - number * h
        k1 = mixture_velocity(x, now)
        k2 = mixture_velocity(x - h / 2 * k1, now - h / 2)
        k3 = mixture_velocity(x - h / 2 * k2, now - h / 2)
        k4 = mixture_velocity(x - h * k3, now - h)
        x = x - h * (k1 + 2 * k2 + 2 * k3 + k4) / 6
    return torch.where(d > 0, (start - x) / d.clamp_min(1e-9), mixture_velocity(start, t))


def self_taught(teacher, batch, targets):
    """The targets by modality with those of spans that learn a step in place, and the FLOPs that it took."""
    batches = teacher_batches(teacher, batch)
    return targets | teacher_targets(teacher, batches, targets), teacher_flops(teacher, batches)
