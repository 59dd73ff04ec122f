import pytest
import torch
import torch.nn.functional as F

from moe_tutorial.rmsnorm import RMSNorm


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


def test_double_precision_is_kept():
    norm, x = RMSNorm(5).double(), torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, x)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(norm(x), expected, rtol=1e-14, atol=0)


def test_no_numbers_at_all_is_an_error():
    with pytest.raises(ValueError, match="dim=0 must be at least 1"):
        RMSNorm(0)


def test_wrong_size_is_an_error_with_both_numbers():
    with pytest.raises(ValueError, match="last axis has 3 numbers, weight 4"):
        RMSNorm(4)(torch.randn(2, 3))
