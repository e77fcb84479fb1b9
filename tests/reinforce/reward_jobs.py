"""What processes do in the tests of learning from rewards on many."""

from pathlib import Path

from tiny_rewards import BOTH, BRIGHT, parameters, rewarded

from mot_gen.reinforce.hooks import STEPS
from mot_gen.training import world as worlds
from mot_gen.training.runs import prepare

ASKED = {"grpo": BOTH, "nft": BRIGHT}


def two_steps(rank: int, origin: Path, folder: Path) -> dict:
    """Rewards and weights after two steps, by method."""
    return {method: _two_steps(method, origin, folder / method) for method in ASKED}


def _two_steps(method: str, origin: Path, folder: Path) -> dict:
    two = ["training.parallel=ddp", "training.rows=64", "training.patience=60", f"reinforce.method={method}"]
    recipe = rewarded("digits-reward", origin, *ASKED[method], *two)
    with worlds.join(recipe.training) as world:
        run, step = prepare(recipe, folder, world), STEPS[method]()
        rewards = [step(run)["reward"] for _ in range(2)]
        found = {"rewards": rewards, "weights": parameters(run)}
        run.close()
    return found
