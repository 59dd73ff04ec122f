import math

import pytest
import torch
from torch import nn

from moe_tutorial.attention import CausalSelfAttention, KVCache, causal_mask
from moe_tutorial.rope import apply_rope, rope_table

B, T, D, H = 2, 7, 12, 3
DH = D // H
COS, SIN = rope_table(T, DH)


@pytest.fixture
def attention():
    return CausalSelfAttention(dim=D, num_heads=H).double()


@pytest.fixture
def x():
    return torch.randn(B, T, D, dtype=torch.float64)


def by_hand(attention, x):
    """Scores, mask and softmax written out, head by head."""
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    heads = []
    for h in range(H):
        part = slice(h * DH, (h + 1) * DH)
        qh = apply_rope(q[:, None, :, part], COS, SIN)[:, 0]
        kh = apply_rope(k[:, None, :, part], COS, SIN)[:, 0]
        scores = qh @ kh.transpose(1, 2) / DH**0.5
        scores = scores.masked_fill(~causal_mask(T, T), -math.inf)
        heads.append(scores.softmax(dim=-1) @ v[..., part])
    return attention.out(torch.cat(heads, dim=-1))


def test_mask_keeps_the_diagonal_and_everything_before_it():
    assert causal_mask(3, 3).int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_mask_is_made_of_booleans_and_lies_where_it_is_told():
    assert causal_mask(1, 1).dtype == torch.bool
    assert causal_mask(2, 3, torch.device("meta")).device.type == "meta"


def test_mask_of_new_queries_sees_all_older_keys():
    assert causal_mask(2, 5).int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    with pytest.raises(ValueError, match="3 queries need at least as many keys, not 2"):
        causal_mask(3, 2)


def test_equals_attention_written_out_forward_and_backward(attention, x):
    y, expected = attention(x, COS, SIN), by_hand(attention, x)
    torch.testing.assert_close(y, expected)
    grads = torch.autograd.grad(y.square().sum(), list(attention.parameters()))
    expected_grads = torch.autograd.grad(expected.square().sum(), list(attention.parameters()))
    torch.testing.assert_close(grads, expected_grads)


def test_equals_pytorch_multihead_attention_without_positions(attention, x):
    reference = nn.MultiheadAttention(D, H, bias=False, batch_first=True).double()
    reference.in_proj_weight.data.copy_(attention.qkv.weight)
    reference.out_proj.weight.data.copy_(attention.out.weight)
    cos, sin = torch.ones_like(COS), torch.zeros_like(SIN)  # rotation by 0
    expected, _ = reference(x, x, x, attn_mask=~causal_mask(T, T), need_weights=False)
    torch.testing.assert_close(attention(x, cos, sin), expected)


def test_attention_does_not_see_the_future(attention, x):
    changed = x.clone()
    changed[:, 4:] = torch.randn(B, T - 4, D, dtype=torch.float64)
    before, after = attention(x, COS, SIN), attention(changed, COS, SIN)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


@pytest.mark.parametrize("pieces", [[7], [1] * 7, [3, 2, 2], [1, 5, 1]])
def test_cache_equals_recomputation(attention, x, pieces):
    cache = KVCache(batch_size=B, num_heads=H, max_seq_len=T, head_dim=DH, dtype=torch.float64)
    outputs, start = [], 0
    for length in pieces:
        part = slice(start, start + length)
        outputs.append(attention(x[:, part], COS[part], SIN[part], cache))
        start += length
    torch.testing.assert_close(torch.cat(outputs, dim=1), attention(x, COS, SIN))


def test_everything_is_made_on_the_device_of_x(attention, x):
    attention, x, cos, sin = (part.to("meta") for part in (attention, x, COS, SIN))
    cache = KVCache(
        batch_size=B, num_heads=H, max_seq_len=2 * T, head_dim=DH, device=x.device, dtype=x.dtype
    )
    attention(x, cos, sin, cache)
    assert attention(x, cos, sin, cache).device.type == "meta"


def test_one_new_position_needs_no_mask(attention, x, monkeypatch):
    cache = KVCache(batch_size=B, num_heads=H, max_seq_len=T, head_dim=DH, dtype=torch.float64)
    attention(x[:, :-1], COS[:-1], SIN[:-1], cache)
    monkeypatch.setattr("moe_tutorial.attention.causal_mask", None)
    last = attention(x[:, -1:], COS[-1:], SIN[-1:], cache)
    torch.testing.assert_close(last, attention(x, COS, SIN)[:, -1:])


def test_a_cache_keeps_keys_and_values_apart_and_in_order():
    cache = KVCache(batch_size=2, num_heads=1, max_seq_len=3, head_dim=4)
    assert cache.keys.shape == cache.values.shape == (2, 1, 3, 4)
    assert cache.keys.dtype == cache.values.dtype == torch.float32
    k, v = torch.randn(2, 2, 1, 3, 4)
    for start, end in [(0, 2), (2, 3)]:
        keys, values = cache.append(k[:, :, start:end], v[:, :, start:end])
        assert cache.length == end
        assert torch.equal(keys, k[:, :, :end])
        assert torch.equal(values, v[:, :, :end])


def test_a_cache_lies_where_and_is_of_what_it_is_told():
    cache = KVCache(
        batch_size=1, num_heads=1, max_seq_len=2, head_dim=2, device="meta", dtype=torch.bfloat16
    )
    for part in (cache.keys, cache.values):
        assert (part.device.type, part.dtype) == ("meta", torch.bfloat16)


@pytest.mark.parametrize(("filled", "more"), [(0, 3), (2, 1), (1, 2)])
def test_more_than_fits_is_an_error_and_leaves_the_cache_as_it_was(filled, more):
    cache = KVCache(batch_size=1, num_heads=1, max_seq_len=2, head_dim=2)
    cache.append(*torch.ones(2, 1, 1, filled, 2))
    with pytest.raises(ValueError, match="position 3 does not fit into a cache of 2"):
        cache.append(*torch.zeros(2, 1, 1, more, 2))
    assert cache.length == filled
    assert (cache.keys[:, :, :filled] == 1).all()


def test_values_of_other_heads_than_the_keys_are_an_error():
    cache = KVCache(batch_size=1, num_heads=2, max_seq_len=2, head_dim=2)
    message = r"keys \(1, 2, 1, 2\) and values \(1, 1, 1, 2\) are of another batch or other heads"
    with pytest.raises(ValueError, match=message):
        cache.append(torch.zeros(1, 2, 1, 2), torch.zeros(1, 1, 1, 2))


def test_dropout_falls_once_on_the_output_and_only_while_training():
    attention = CausalSelfAttention(dim=D, num_heads=H, dropout=0.5).double()
    x = torch.randn(50, T, D, dtype=torch.float64)
    dropped, y = attention(x, COS, SIN), attention.eval()(x, COS, SIN)
    torch.testing.assert_close(y, by_hand(attention, x))
    kept = dropped != 0
    assert kept.double().mean().item() == pytest.approx(0.5, abs=0.03)
    torch.testing.assert_close(dropped[kept], 2 * y[kept])


def test_two_matrices_and_no_biases(attention):
    shapes = {name: tuple(weight.shape) for name, weight in attention.state_dict().items()}
    assert shapes == {"qkv.weight": (3 * D, D), "out.weight": (D, D)}


def test_the_smallest_head_is_one_pair():
    table = rope_table(3, 2)
    assert CausalSelfAttention(dim=2, num_heads=1)(torch.randn(1, 3, 2), *table).shape == (1, 3, 2)


@pytest.mark.parametrize(
    ("dim", "num_heads", "nearest"),
    [(12, 5, 6), (12, 4, 3), (128, 6, 4), (12, 0, 1), (12, -3, 1), (20, 99, 10)],
)
def test_heads_that_do_not_fit_are_an_error_with_the_nearest_that_rope_accepts(
    dim, num_heads, nearest
):
    with pytest.raises(ValueError, match=rf"num_heads={num_heads} .*; try num_heads={nearest}$"):
        CausalSelfAttention(dim=dim, num_heads=num_heads)
    rope_table(4, dim // nearest)
    CausalSelfAttention(dim=dim, num_heads=nearest)


@pytest.mark.parametrize("dim", [5, 1, 0, -4])
def test_dim_that_cannot_be_split_is_an_error(dim):
    with pytest.raises(ValueError, match=f"dim={dim} cannot be split .*; try an even dim$"):
        CausalSelfAttention(dim=dim, num_heads=1)


@pytest.mark.parametrize("rows", [1, T - 1, T + 1])
def test_a_table_of_other_positions_is_an_error(attention, x, rows):
    with pytest.raises(ValueError, match="take the rows of the positions of x"):
        attention(x, *rope_table(rows, DH))


@pytest.mark.parametrize(("batch_size", "num_heads"), [(3, H), (1, H), (B, 1), (B, H + 1)])
def test_a_cache_of_another_size_is_an_error(attention, x, batch_size, num_heads):
    cache = KVCache(batch_size=batch_size, num_heads=num_heads, max_seq_len=T, head_dim=DH)
    with pytest.raises(ValueError, match="are of another batch or other heads than the cache"):
        attention(x, COS, SIN, cache)
    assert cache.length == 0
