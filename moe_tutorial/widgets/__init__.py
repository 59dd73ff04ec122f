"""Sliders and pages that show the figures of plots under values you choose; a file per chapter.

They are built from `HTML` and `Image` widgets, whose values a test can compare.
"""

from moe_tutorial.widgets.ch04 import offset_slider
from moe_tutorial.widgets.ch07 import hand_router
from moe_tutorial.widgets.ch08 import live_curve
from moe_tutorial.widgets.ch09 import sampling_slider
from moe_tutorial.widgets.ch11 import drift_slider
from moe_tutorial.widgets.ch12 import expert_surgery, training_strip
from moe_tutorial.widgets.ch13 import touched_slider
from moe_tutorial.widgets.playground import playground
