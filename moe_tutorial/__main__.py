"""`python -m moe_tutorial`: see `moe_tutorial.command.cli`."""

import os
import sys

from moe_tutorial.command.cli import main

code = main()
if "TORCHELASTIC_RUN_ID" in os.environ:  # one of several processes
    from moe_tutorial.processes.launch import leave

    leave(code)
sys.exit(code)
