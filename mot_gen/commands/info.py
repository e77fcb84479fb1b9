"""`mot-gen info`: what a checkpoint is and can do; register."""

from __future__ import annotations

from mot_gen.commands.options import print_facts


def register(commands) -> None:
    """Add `info` to the commands of mot-gen."""
    command = commands.add_parser("info", help="what a checkpoint is and can do")
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="a run's folder, its model/, or a shipped name")
    command.add_argument("--json", action="store_true", help="print the facts as JSON")
    command.set_defaults(func=_info)


def _info(arguments) -> int:
    from mot_gen.checkpoints import find

    find(arguments.checkpoint)  # what is not there is refused before torch is imported

    from mot_gen.pipelines.about import describe

    print_facts(describe(arguments.checkpoint), arguments.json)
    return 0
