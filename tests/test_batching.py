import pytest
import torch

from moe_tutorial.batching import check_length, evaluation_batches, random_batch, sliding_windows

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


def test_x_and_y_of_a_batch_share_rows_that_are_copies_of_the_text():
    ids = IDS.clone()
    x, y = random_batch(ids, 2, 4, torch.Generator().manual_seed(0))
    y[:, 0] = -9
    assert x[:, 1].tolist() == [-9, -9]
    assert torch.equal(ids, IDS)


def test_same_seed_same_batches_and_the_global_seed_is_not_used():
    draws = []
    for seed in (1, 1, 2):
        generator, before = torch.Generator().manual_seed(seed), torch.get_rng_state()
        draws.append([random_batch(IDS, 9, 3, generator)[0].tolist() for _ in range(2)])
        assert torch.equal(torch.get_rng_state(), before)
    assert draws[0] == draws[1] != draws[2]
    assert draws[0][0] != draws[0][1]  # the generator goes on


def test_starts_are_drawn_where_the_generator_is_and_windows_cut_where_the_ids_are():
    expected, _ = random_batch(IDS, 4, 3, torch.Generator().manual_seed(1))
    with torch.device("meta"):  # the default device is neither
        x, _ = random_batch(IDS, 4, 3, torch.Generator("cpu").manual_seed(1))
    assert torch.equal(x, expected)
    x, y = random_batch(IDS.to("meta"), 4, 3, torch.Generator())
    assert x.device.type == y.device.type == "meta"


def test_every_start_is_as_likely_as_any_other():
    x, _ = random_batch(IDS, 9000, 1, torch.Generator().manual_seed(0))
    shares = x.flatten().bincount() / 9000
    torch.testing.assert_close(shares, torch.full((9,), 1 / 9), atol=0.015, rtol=0)


def test_windows_are_views_and_batches_are_copies():
    ids = torch.arange(4)
    x, y = sliding_windows(ids, 2)
    drawn = random_batch(ids, 3, 3, torch.Generator())[0]
    ids += 10
    assert (x.tolist(), y.tolist()) == ([[10, 11], [11, 12]], [[11, 12], [12, 13]])
    assert drawn.tolist() == [[0, 1, 2]] * 3


@pytest.mark.parametrize(
    ("every", "starts"),
    [(1, [0, 4, 8, 12, 16]), (2, [0, 8, 16]), (3, [0, 12]), (4, [0, 16]), (9, [0])],
)
def test_a_sample_is_every_so_many_th_window(every, starts):
    ids = torch.arange(19)  # four whole windows of 4, and 16 17 with the targets 17 18
    rows = [row.tolist() for x, _ in evaluation_batches(ids, 2, 4, every) for row in x]
    assert rows == [list(range(start, min(start + 4, 18))) for start in starts]
    for x, y in evaluation_batches(ids, 2, 4, every):
        assert torch.equal(y, x + 1)


def test_evaluation_batches_are_full_then_smaller_and_a_short_window_is_alone():
    shapes = [tuple(x.shape) for x, _ in evaluation_batches(torch.arange(24), 2, 4)]
    assert shapes == [(2, 4), (2, 4), (1, 4), (1, 3)]
    assert [tuple(y.shape) for _, y in evaluation_batches(torch.arange(9), 2, 4)] == [(2, 4)]


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
    for use in (sliding_windows, check_length):
        with pytest.raises(ValueError, match=r"2 axes \(2, 5\), but a text is one row"):
            use(IDS.view(2, 5), 1)


@pytest.mark.parametrize("ids", [[1, 2, 3, 4], "text", None])
def test_ids_that_are_no_tensor_are_one_line(ids):
    message = f"ids are a {type(ids).__name__}; CharTokenizer.encode gives a tensor"
    for use in (
        lambda: sliding_windows(ids, 2),
        lambda: random_batch(ids, 2, 2, torch.Generator()),
        lambda: next(evaluation_batches(ids, 2, 2)),
        lambda: check_length(ids, 2),
    ):
        with pytest.raises(TypeError, match=f"^{message}$"):
            use()


def test_text_shorter_than_a_window_is_an_error_with_both_numbers():
    with pytest.raises(ValueError, match=r"10 characters, .* seq_len=10 and its target need 11"):
        random_batch(IDS, 1, 10, torch.Generator())
    with pytest.raises(ValueError, match=r"1 characters, .* seq_len=1 and its target need 2"):
        next(evaluation_batches(IDS[:1], 1, 4))


def test_one_window_and_its_target_are_enough():
    assert sliding_windows(IDS, 9)[1].tolist() == [list(range(1, 10))]
    assert random_batch(IDS, 1, 9, torch.Generator())[0].tolist() == [list(range(9))]
    check_length(IDS, 9)
    ((x, y),) = evaluation_batches(IDS[:2], 1, 4)
    assert (x.tolist(), y.tolist()) == ([[0]], [[1]])
