"""`python -m moe_tutorial`: see `moe_tutorial.cli`."""

import sys

from moe_tutorial.cli import main

sys.exit(main())
