"""The learner's self-checks: compare with the library, show its source, judge an exercise.

A check prints one line and never raises for a wrong answer: "not attempted yet", "not yet: ..." or
"the bug is still there: ..." with the likely mistake, or "correct: ..." with what was verified.
"""

from moe_tutorial.checks.base import same, show_source
from moe_tutorial.checks.ch01 import check_add_one_loss, check_smooth_pairs, check_split_windows
from moe_tutorial.checks.ch02 import (
    check_byte_tokenizer,
    check_load_tokenizer,
    check_symbols_by_count,
)
from moe_tutorial.checks.ch03 import check_count_pairs, check_draw, check_strided_evaluation
from moe_tutorial.checks.ch04 import (
    check_offset_score,
    check_repaired_table,
    check_rotate_interleaved,
)
from moe_tutorial.checks.ch05 import check_layer_norm, check_normalize_list, check_repaired_norm
from moe_tutorial.checks.ch06 import check_repaired_scores, check_run_in_pieces, check_window_mask
from moe_tutorial.checks.ch07 import check_biased_routing, check_repaired_loss, check_served
from moe_tutorial.checks.ch08 import check_accumulate, check_cosine_rate, check_repaired_evaluate
from moe_tutorial.checks.ch09 import check_count_top_p, check_min_p_probs, check_repaired_probs
from moe_tutorial.checks.ch10 import (
    check_chunked_mask,
    check_grouped_attention,
    check_repaired_rows,
)
from moe_tutorial.checks.ch11 import (
    check_diagnose,
    check_proportional_update,
    check_repaired_rebalance,
)
from moe_tutorial.checks.ch12 import (
    check_read_board,
    check_repaired_without,
    check_table_information,
)
from moe_tutorial.checks.ch13 import Trial, check_fair_winner, check_repaired_hash, check_touched_by
from moe_tutorial.checks.ch14 import check_repaired_average, check_rows_once, check_splits
from moe_tutorial.checks.ch15 import (
    check_needs_more_than_one,
    check_repaired_choice,
    check_switches_from,
)
from moe_tutorial.checks.ch16 import check_accepts, check_repaired_guess, check_rest_of_rows
