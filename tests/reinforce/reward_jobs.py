"""What processes do in the tests of learning from rewards on many."""

from pathlib import Path

from tiny_rewards import BOTH, parameters, rewarded

from mot_gen.reinforce.steps import GrpoStep
from mot_gen.training import world as worlds
from mot_gen.training.runs import prepare


def two_steps(rank: int, origin: Path, folder: Path) -> dict:
    """Rewards and weights after two steps."""
    two = ["training.parallel=ddp", "training.rows=64", "training.patience=60"]
    recipe = rewarded("digits-reward", origin, *BOTH, *two)
    with worlds.join(recipe.training) as world:
        run, step = prepare(recipe, folder, world), GrpoStep()
        rewards = [step(run)["reward"] for _ in range(2)]
        found = {"rewards": rewards, "weights": parameters(run)}
        run.close()
    return found
