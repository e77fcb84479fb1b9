"""`python -m mot_gen` is the mot-gen command; training also runs as `torchrun -m mot_gen train RECIPE`."""

import sys

from mot_gen.commands.main import main

sys.exit(main())
