"""The flow's solvers, against the exact flow of a normal distribution."""

import pytest
import torch

from mot_gen.errors import InputError
from mot_gen.objectives.flow import SOLVERS, Objective
from mot_gen.pipelines.engine.samplers import Schedule, integrate

MEAN, DEVIATION = 0.7, 0.3  # of the data


def velocity(x, timestep):
    """The flow's velocity E[e - x_0 | x_t = x]: x_0 and e are normal, and so is x_t."""
    time = timestep.double() / 1000
    variance = ((1 - time) * DEVIATION) ** 2 + time**2
    slope = (time - (1 - time) * DEVIATION**2) / variance
    return slope * (x - (1 - time) * MEAN) - MEAN


def error(solver, steps, **options):
    """The mean distance of drawn values to where the exact flow ends, mean + deviation * noise."""
    noise = torch.randn(256, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = integrate(velocity, noise, Schedule(Objective(solver=solver, **options).scheduler(), steps))
    return float((drawn - (MEAN + DEVIATION * noise)).abs().mean())


@pytest.mark.parametrize("shift", [1.0, 2.0])
@pytest.mark.parametrize("solver", SOLVERS)
def test_more_evaluations_come_nearer_to_the_exact_flow(solver, shift):
    few, more, many = (error(solver, steps, shift=shift) for steps in (5, 20, 80))
    assert many < 0.01 and many < more < few


def test_unipc_needs_about_half_of_eulers_evaluations():
    assert error("unipc", 6) < error("euler", 10)
    assert error("unipc", 10) < error("euler", 20)


def test_an_unknown_solver_is_refused():
    with pytest.raises(InputError, match=r"flow\.solver 'unipcc' is not known.*unipc"):
        Objective(solver="unipcc")
