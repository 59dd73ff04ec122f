import math

import pytest
import torch

from moe_tutorial.rope import (
    apply_rope,
    rope_frequencies,
    rope_table,
    to_half_split,
    to_interleaved,
)

DH = 6


def rotate_at(x, position):
    cos, sin = rope_table(64, DH)
    return apply_rope(x.view(1, 1, 1, DH), cos[position, None], sin[position, None]).flatten()


def test_frequencies_start_at_one_and_fall_geometrically():
    frequencies = rope_frequencies(DH, theta=1000.0)
    torch.testing.assert_close(frequencies, torch.tensor([1.0, 0.1, 0.01]))


@pytest.mark.parametrize(("options", "theta"), [({}, 10_000), ({"theta": 500.0}, 500)])
def test_the_table_holds_every_angle_twice_with_the_sine_signed(options, theta):
    angles = [[p * theta ** (-2 * i / DH) for i in range(DH // 2)] for p in range(9)]
    cos, sin = rope_table(9, DH, **options)
    expected = torch.tensor([[math.cos(a) for a in row] * 2 for row in angles])
    torch.testing.assert_close(cos, expected)
    expected = torch.tensor([[s * math.sin(a) for s in (-1, 1) for a in row] for row in angles])
    torch.testing.assert_close(sin, expected, rtol=1e-5, atol=0)
    frequencies = rope_frequencies(DH, **options)
    torch.testing.assert_close(frequencies, torch.tensor(angles[1]), rtol=1e-5, atol=0)


def test_one_position_and_one_pair_are_enough():
    cos, sin = rope_table(1, 2)
    assert (cos.tolist(), sin.tolist()) == ([[1, 1]], [[0, 0]])


def test_first_pair_turns_by_one_radian_per_position():
    turned = rotate_at(torch.tensor([1.0, 0, 0, 0, 0, 0]), 2)
    assert turned[0].item() == pytest.approx(torch.tensor(2.0).cos().item())
    assert turned[DH // 2].item() == pytest.approx(torch.tensor(2.0).sin().item())


def test_equals_multiplication_of_complex_numbers():
    x = torch.randn(2, 3, 5, DH)
    cos, sin = rope_table(5, DH)
    angles = torch.outer(torch.arange(5), rope_frequencies(DH))
    pairs = torch.complex(*x.chunk(2, dim=-1)) * torch.polar(torch.ones_like(angles), angles)
    expected = torch.cat((pairs.real, pairs.imag), dim=-1)
    torch.testing.assert_close(apply_rope(x, cos, sin), expected)


@pytest.mark.parametrize("offset", [0, 1, 7])
def test_dot_product_depends_on_the_offset_only(offset):
    q, k = torch.randn(2, DH)
    products = [rotate_at(q, m) @ rotate_at(k, m - offset) for m in (7, 20, 63)]
    torch.testing.assert_close(products[0], products[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(products[0], products[2], atol=1e-5, rtol=0)


def test_rotation_keeps_lengths_and_position_zero_changes_nothing():
    x = torch.randn(DH)
    torch.testing.assert_close(rotate_at(x, 33).norm(), x.norm())
    torch.testing.assert_close(rotate_at(x, 0), x)


def test_layouts_are_inverse_permutations():
    x = torch.arange(6)
    assert to_interleaved(x).tolist() == [0, 3, 1, 4, 2, 5]
    assert to_half_split(x).tolist() == [0, 2, 4, 1, 3, 5]
    rows = torch.randn(3, 2, 4)  # over the last axis, whatever comes before it
    assert torch.equal(to_half_split(to_interleaved(rows)), rows)
    assert torch.equal(to_interleaved(rows)[2, 1], to_interleaved(rows[2, 1]))


def test_half_split_equals_interleaved_after_the_permutation():
    x = torch.randn(1, 1, 4, DH)
    cos, sin = rope_table(4, DH)
    angles = torch.outer(torch.arange(4), rope_frequencies(DH))
    pairs = torch.view_as_complex(to_interleaved(x).unflatten(-1, (-1, 2)).contiguous())
    turned = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)
    torch.testing.assert_close(to_interleaved(apply_rope(x, cos, sin)), turned)


@pytest.mark.parametrize(("head_dim", "even"), [(5, 6), (1, 2), (0, 2), (-2, 2)])
def test_head_size_that_has_no_pairs_is_an_error(head_dim, even):
    with pytest.raises(ValueError, match=f"head_dim={head_dim} is not even, .* such as {even}$"):
        rope_table(4, head_dim)


def test_table_without_positions_is_an_error():
    with pytest.raises(ValueError, match="max_seq_len=0 leaves no position"):
        rope_table(0, 4)


@pytest.mark.parametrize(("positions", "head_dim"), [(1, DH), (3, DH), (5, DH), (4, 1), (4, 8)])
def test_table_of_other_positions_or_head_sizes_is_an_error(positions, head_dim):
    """Without this, one row would turn all positions alike and a long table lengthen the text."""
    x = torch.randn(2, 3, 4, DH)
    with pytest.raises(ValueError, match=r"must be \(T, Dh\) = \(4, 6\) as in x"):
        apply_rope(x, torch.ones(positions, head_dim), torch.ones(positions, head_dim))
    with pytest.raises(ValueError, match=rf"sin \({positions}, {head_dim}\) must be"):
        apply_rope(x, torch.ones(4, DH), torch.ones(positions, head_dim))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_tables_are_float32_whatever_the_default_type(kind):
    expected = rope_table(300, 32)
    torch.set_default_dtype(kind)
    try:
        found = rope_table(300, 32)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_larger_theta_slows_every_pair_but_the_first():
    usual, larger = rope_frequencies(8), rope_frequencies(8, theta=1e6)
    assert usual[0] == larger[0] == 1
    assert (larger[1:] < usual[1:]).all()
