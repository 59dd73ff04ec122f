"""Figures, each a function from data to a matplotlib Figure; one file per chapter."""

from moe_tutorial.plots.base import COLORS, EXPERT_COLORS, STYLES, png, tick_label, visible
from moe_tutorial.plots.ch01 import order_figure, pair_figure, symbol_figure
from moe_tutorial.plots.ch02 import ids_figure, vocabulary_growth_figure
from moe_tutorial.plots.ch03 import split_figure, target_counts_figure, windows_figure
from moe_tutorial.plots.ch04 import frequency_figure, layout_figure, offset_figure, rotation_figure
from moe_tutorial.plots.ch05 import norm_figure, size_figure
from moe_tutorial.plots.ch06 import attention_figure, largest_weight_figure
from moe_tutorial.plots.ch07 import (
    colored_html,
    dispatch_figure,
    expert_colors,
    expert_html,
    load_figure,
    routing_figure,
    time_figure,
)
from moe_tutorial.plots.ch08 import busiest_figure, loss_figure, model_figure, schedule_figure
from moe_tutorial.plots.ch09 import sampling_figure
from moe_tutorial.plots.ch10 import layouts_figure, mistakes_figure
from moe_tutorial.plots.ch11 import (
    drift_figure,
    entropy_figure,
    gradient_figure,
    health_figure,
    tradeoff_figure,
    violation_figure,
)
from moe_tutorial.plots.ch12 import (
    information_figure,
    over_steps_figure,
    ratio_figure,
    removal_figure,
    spread_figure,
    strip_figure,
    surgery_figure,
)
from moe_tutorial.plots.ch13 import (
    learning_figure,
    per_token_figure,
    seeds_figure,
    touched_figure,
)
from moe_tutorial.plots.ch14 import fabric_figure, rows_figure, traffic_figure, work_figure
from moe_tutorial.plots.ch15 import cards_figure, machines_figure, scale_figure, score_figure
from moe_tutorial.plots.history import history_figure, smooth
