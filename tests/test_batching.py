import pytest
import torch

from moe_tutorial.batching import evaluation_batches, random_batch, sliding_windows

IDS = torch.arange(10)


def test_ten_characters_and_windows_of_three_make_seven_pairs():
    x, y = sliding_windows(IDS, 3)
    assert len(x) == len(y) == 10 - 3
    assert x[0].tolist() == [0, 1, 2]
    assert y[0].tolist() == [1, 2, 3]
    assert y[-1].tolist() == [7, 8, 9]


def test_594_characters_and_block_64_make_530_pairs_not_529():
    assert len(sliding_windows(torch.arange(594), 64)[0]) == 530


def test_targets_are_inputs_shifted_by_one():
    x, y = random_batch(IDS, 100, 4, torch.Generator().manual_seed(0))
    assert x.shape == y.shape == (100, 4)
    assert torch.equal(y, x + 1)
    assert x[:, 0].unique().tolist() == [0, 1, 2, 3, 4, 5]  # every start, none outside


def test_same_seed_same_batches():
    draws = [random_batch(IDS, 4, 3, torch.Generator().manual_seed(s))[0] for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("length", [2, 9, 10, 11, 25])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_evaluation_windows_cover_every_target_exactly_once(length, batch_size):
    ids = torch.arange(length)
    batches = list(evaluation_batches(ids, batch_size, 4))
    assert all(0 < x.numel() == y.numel() for x, y in batches)
    inputs, targets = (
        torch.cat([part.flatten() for part in parts]) for parts in zip(*batches, strict=True)
    )
    assert torch.equal(targets, ids[1:])
    assert torch.equal(inputs, ids[:-1])


@pytest.mark.parametrize("seq_len", [0, -1])
def test_windows_of_no_length_are_an_error(seq_len):
    message = f"seq_len={seq_len} and batch_size=.* must be at least 1"
    with pytest.raises(ValueError, match=message):
        sliding_windows(IDS, seq_len)
    with pytest.raises(ValueError, match=message):
        random_batch(IDS, 2, seq_len, torch.Generator())
    with pytest.raises(ValueError, match=message):
        next(evaluation_batches(IDS, 2, seq_len))


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batches_of_no_windows_are_an_error(batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size} must be at least 1"):
        random_batch(IDS, batch_size, 3, torch.Generator())
    with pytest.raises(ValueError, match=f"batch_size={batch_size} must be at least 1"):
        next(evaluation_batches(IDS, batch_size, 3))


def test_ids_with_two_axes_are_an_error():
    with pytest.raises(ValueError, match=r"2 axes \(2, 5\), but a text is one row"):
        sliding_windows(IDS.view(2, 5), 1)


def test_text_shorter_than_a_window_is_an_error_with_both_numbers():
    with pytest.raises(ValueError, match=r"10 characters, .* seq_len=10 and its target need 11"):
        random_batch(IDS, 1, 10, torch.Generator())
    with pytest.raises(ValueError, match="2"):
        list(evaluation_batches(IDS[:1], 1, 4))
