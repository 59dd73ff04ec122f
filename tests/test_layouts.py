"""Each step changes a layout as it says, and its way back undoes it."""

import pytest
import torch

from moe_tutorial.layouts import JOIN, SPLIT, STACK, TRANSPOSE, Rule, interleave


def numbers(*shape):
    return torch.arange(float(torch.tensor(shape).prod())).view(shape)


def test_the_steps_split_into_three_and_stack_along_a_new_first_axis():
    rows = torch.arange(6.0).view(6, 1)
    assert [part.flatten().tolist() for part in SPLIT.there([rows])] == [[0, 1], [2, 3], [4, 5]]
    assert STACK.there([rows, rows])[0].shape == (2, 6, 1)


def test_gate_and_up_are_joined_side_by_side_gate_first():
    gate, up = numbers(2, 3), 10 + numbers(2, 3)
    joined = JOIN.there([gate, up, up, gate])
    assert joined[0].tolist() == [[0, 1, 2, 10, 11, 12], [3, 4, 5, 13, 14, 15]]
    assert joined[1].tolist() == [[10, 11, 12, 0, 1, 2], [13, 14, 15, 3, 4, 5]]
    with pytest.raises(ValueError, match="shorter"):
        JOIN.there([gate, up, gate])


def test_each_head_is_interleaved_by_itself_and_v_is_not():
    q, k, v = numbers(8, 1), 10 + numbers(8, 1), 20 + numbers(8, 1)
    found = interleave(2).there([q, k, v])
    order = [0, 2, 1, 3, 4, 6, 5, 7]
    assert [part.flatten().tolist() for part in found] == [
        order, [10 + i for i in order], list(range(20, 28)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("step", "tensors"),
    [
        (TRANSPOSE, [numbers(3, 2), numbers(2, 3, 4)]),
        (SPLIT, [numbers(9, 2)]),
        (STACK, [numbers(3), -numbers(3)]),
        (STACK, [numbers(3)]),
        (JOIN, [numbers(2, 3), -numbers(2, 3)]),
    ],
)
def test_every_step_has_a_way_back(step, tensors):
    back = step.back(step.there(tensors))
    assert len(back) == len(tensors)
    assert all(map(torch.equal, back, tensors))


def test_interleaving_has_a_way_back():
    step, qkv = interleave(3), [numbers(12, 5), -numbers(12, 5), 7 * numbers(12, 5)]
    there = step.there(qkv)
    assert not torch.equal(there[0], qkv[0])
    assert all(map(torch.equal, step.back(there), qkv))


def test_a_rule_has_no_steps_unless_told_otherwise():
    assert Rule("a", "b").steps == ()
