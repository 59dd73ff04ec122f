import pytest
import torch
import torch.nn.functional as F

from moe_tutorial.rmsnorm import RMSNorm, widen


def test_three_and_four_by_hand():
    norm = RMSNorm(2, eps=0.0)
    # mean square of (3, 4) is 12.5
    torch.testing.assert_close(norm(torch.tensor([3.0, 4.0])), torch.tensor([3, 4]) / 12.5**0.5)


def test_equals_pytorch_forward_and_backward():
    x, weight = torch.randn(2, 3, 7), torch.randn(7)
    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    norm = RMSNorm(7, eps=1e-5)
    norm.weight.data.copy_(weight)
    reference_weight = weight.clone().requires_grad_()
    y, reference = norm(ours), F.rms_norm(theirs, (7,), reference_weight, 1e-5)
    torch.testing.assert_close(y, reference)
    y.square().sum().backward()
    reference.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(norm.weight.grad, reference_weight.grad)


def test_eps_is_added_under_the_root_and_is_a_hundred_thousandth_unless_told_otherwise():
    x = torch.tensor([0.003])
    torch.testing.assert_close(RMSNorm(1, eps=16e-6)(x), torch.tensor([0.6]))
    torch.testing.assert_close(RMSNorm(1)(x), x / (0.000009 + 0.00001) ** 0.5)
    assert RMSNorm(1)(torch.zeros(1)).item() == 0


def test_weight_starts_as_ones_and_is_all_that_is_learned():
    ((name, weight),) = RMSNorm(3).named_parameters()
    assert (name, weight.tolist()) == ("weight", [1, 1, 1])


def test_scale_of_the_input_does_not_matter():
    x, norm = torch.randn(4, 8), RMSNorm(8, eps=0.0)
    torch.testing.assert_close(norm(1000 * x), norm(x))


def test_mean_is_kept_unlike_layer_norm():
    y = RMSNorm(4)(torch.tensor([2.0, 2.0, 2.0, 2.0]))
    torch.testing.assert_close(y, torch.ones(4))


def test_half_precision_does_not_overflow_and_comes_back_in_its_type():
    y = RMSNorm(4)(torch.full((4,), 1000.0, dtype=torch.float16))
    assert y.dtype == torch.float16
    torch.testing.assert_close(y, torch.ones(4, dtype=torch.float16))


@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16])
def test_narrow_numbers_are_rounded_once_at_the_end(narrow):
    norm, x = RMSNorm(64), torch.randn(50, 64).to(narrow)
    norm.weight.data.uniform_(0.5, 2.0)
    assert torch.equal(norm(x), norm(x.float()).to(narrow))


@pytest.mark.parametrize(
    ("given", "computed"),
    [("float16", "float32"), ("bfloat16", "float32"), ("float32", "float32"), ("float64",) * 2],
)
def test_numbers_are_widened_to_float32_but_never_narrowed(given, computed):
    assert widen(torch.ones(2, dtype=getattr(torch, given))).dtype == getattr(torch, computed)


def test_double_precision_is_kept():
    norm, x = RMSNorm(5).double(), torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, x)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(norm(x), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dim", [0, -1])
def test_no_numbers_at_all_is_an_error(dim):
    with pytest.raises(ValueError, match=f"dim={dim} must be at least 1"):
        RMSNorm(dim)


def test_wrong_size_is_an_error_with_both_numbers():
    with pytest.raises(ValueError, match="last axis has 3 numbers, weight 4"):
        RMSNorm(4)(torch.randn(2, 3))


def test_a_larger_matrix_before_it_changes_gradients_only():
    norm, x, matrix = RMSNorm(8, eps=0.0), torch.randn(5, 8), torch.randn(8, 8)
    direction, sized = torch.randn(5, 8), [(s * matrix).requires_grad_() for s in (1, 1000)]
    outputs = [norm(x @ m) for m in sized]
    torch.testing.assert_close(outputs[1], outputs[0])
    small, large = (torch.autograd.grad((y * direction).sum(), m)[0]
                    for y, m in zip(outputs, sized, strict=True))  # fmt: skip
    torch.testing.assert_close(1000 * large, small, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_rounded_once_only():
    x = torch.randn(100, 8).bfloat16()
    assert torch.equal(RMSNorm(8)(x), RMSNorm(8)(x.float()).bfloat16())
