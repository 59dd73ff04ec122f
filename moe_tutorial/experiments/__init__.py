"""The experiments of chapters 11 to 13 and 16: `python -m moe_tutorial.experiments` lists them.

Their results are committed in results/, so that the figures are drawn without training.
"""

from moe_tutorial.experiments.base import Results, committed, elsewhere
