"""Five methods, one operation: torch's, forward and backward."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import dilated_lib as dl
from dilated_lib.dilation.five_ways import _METHODS

METHODS = ("loops", "inflate", "unfold", "shift", "space_to_batch")
each_method = pytest.mark.parametrize("method", METHODS)


@st.composite
def cases(draw):
    """Leaf tensors x, weight, bias, and arguments that torch accepts."""
    kernel = [draw(st.integers(1, 4)) for _ in range(2)]
    dilation = tuple(draw(st.integers(1, 4)) for _ in range(2))
    padding = tuple(draw(st.integers(0, 3)) for _ in range(2))
    least = [
        max(1, d * (k - 1) + 1 - 2 * p)
        for k, d, p in zip(kernel, dilation, padding, strict=True)
    ]
    size = [n + draw(st.integers(0, 4)) for n in least]
    batch = draw(st.integers(1, 3))
    channels, outputs = (draw(st.integers(1, 4)) for _ in range(2))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    shapes = ((batch, channels, *size), (outputs, channels, *kernel), (outputs,))
    leaves = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    return leaves, {"dilation": dilation, "padding": padding}


@each_method
@given(case=cases())
def test_output_and_gradients_are_torchs(method, case):
    leaves, arguments = case
    expected = F.conv2d(*leaves, **arguments)
    got = dl.dilated_conv2d(*leaves, **arguments, method=method)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    mixture = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, leaves, mixture)
    for mine, theirs in zip(
        torch.autograd.grad(got, leaves, mixture), wanted, strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


sides = st.tuples(st.integers(1, 9), st.integers(1, 9))
taps, steps, zeros = (
    st.tuples(st.integers(low, high), st.integers(low, high))
    for low, high in ((1, 4), (1, 4), (0, 3))
)


@given(sides, taps, steps, zeros)
def test_a_kernel_is_too_large_exactly_where_it_is_for_torch(size, taps, step, zeros):
    x, weight = torch.ones(1, 1, *size), torch.ones(1, 1, *taps)
    arguments = {"dilation": step, "padding": zeros}
    try:
        expected = F.conv2d(x, weight, **arguments)
    except RuntimeError:
        with pytest.raises(ValueError, match="larger than the padded input"):
            dl.dilated_conv2d(x, weight, **arguments)
    else:
        assert dl.dilated_conv2d(x, weight, **arguments).shape == expected.shape


@each_method
def test_second_derivatives_exist(method):
    torch.manual_seed(0)
    x = torch.randn(1, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)

    def convolve(x, weight):
        return dl.dilated_conv2d(x, weight, dilation=2, padding=1, method=method)

    assert torch.autograd.gradcheck(convolve, (x, weight))
    assert torch.autograd.gradgradcheck(convolve, (x, weight))


@each_method
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.float16, 2e-2), (torch.bfloat16, 2e-1)],
)
def test_the_dtype_is_kept(method, dtype, tolerance):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 12, 9).to(dtype)
    weight = torch.randn(4, 3, 3, 3).to(dtype)
    got = dl.dilated_conv2d(x, weight, dilation=2, padding=2, method=method)
    exact = F.conv2d(x.double(), weight.double(), dilation=2, padding=2)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), exact, rtol=tolerance, atol=tolerance)


@each_method
def test_inputs_are_left_as_they_were_and_may_lie_in_any_order(method):
    torch.manual_seed(0)
    x = torch.randn(2, 9, 8, 3).permute(0, 3, 1, 2)
    weight = torch.randn(3, 3, 4, 2).permute(3, 0, 1, 2)
    before = x.clone(), weight.clone()
    got = dl.dilated_conv2d(x, weight, dilation=(3, 2), padding=(1, 0), method=method)
    expected = F.conv2d(x, weight, dilation=(3, 2), padding=(1, 0))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(x, before[0])
    assert torch.equal(weight, before[1])


@each_method
def test_small_numpy_integers_do_not_overflow(method):
    torch.manual_seed(0)
    x, weight = torch.randn(1, 1, 250, 1), torch.randn(1, 1, 3, 1)
    step, zeros = (np.int8(100), np.int8(1)), (np.int8(70), np.int8(0))
    got = dl.dilated_conv2d(x, weight, dilation=step, padding=zeros, method=method)
    expected = F.conv2d(x, weight, dilation=(100, 1), padding=(70, 0))
    torch.testing.assert_close(got, expected)


@each_method
def test_an_empty_batch_gives_an_empty_batch(method):
    x, weight = torch.ones(0, 2, 7, 7), torch.ones(3, 2, 3, 3)
    assert dl.dilated_conv2d(x, weight, dilation=2, method=method).shape == (0, 3, 3, 3)


@each_method
def test_the_digits_of_the_output_tell_which_inputs_were_read(method):
    x = torch.arange(1.0, 8).reshape(1, 1, 1, 7)
    weight = torch.tensor([1.0, 10, 100]).reshape(1, 1, 1, 3)
    got = dl.dilated_conv2d(x, weight, dilation=(1, 2), method=method)
    assert got.flatten().tolist() == [531, 642, 753]


def test_the_papers_true_convolution_is_the_turned_kernel():
    torch.manual_seed(0)
    x = torch.randn(7, 8, dtype=torch.float64)
    kernel = torch.randn(3, 2, dtype=torch.float64)
    full = torch.zeros(7 + 4, 8 + 2, dtype=torch.float64)
    for s in ((r, c) for r in range(7) for c in range(8)):  # eq. 2: s + 2t = p
        for t in ((r, c) for r in range(3) for c in range(2)):
            full[s[0] + 2 * t[0], s[1] + 2 * t[1]] += x[s] * kernel[t]
    got = dl.dilated_conv2d(x[None, None], kernel.flip(0, 1)[None, None], dilation=2)[
        0, 0
    ]
    torch.testing.assert_close(got, full[4:7, 2:8], rtol=0, atol=1e-12)


def test_past_the_tensors_dilate_takes_names_only():
    x, weight, bias = torch.ones(1, 1, 5, 5), torch.ones(1, 1, 3, 3), torch.ones(1)
    assert (dl.dilated_conv2d(x, weight, bias) == 10).all()
    with pytest.raises(TypeError, match="takes from 2 to 3 positional arguments"):
        dl.dilated_conv2d(x, weight, bias, 2)


def test_shifting_is_the_default():
    torch.manual_seed(0)
    x, weight = torch.randn(1, 3, 9, 9), torch.randn(2, 3, 3, 3)
    shifted = dl.dilated_conv2d(x, weight, dilation=2, method="shift")
    assert torch.equal(dl.dilated_conv2d(x, weight, dilation=2), shifted)
    assert torch.equal(
        dl.dilated_conv2d(x, weight),
        dl.dilated_conv2d(x, weight, dilation=1, padding=0),
    )


def test_the_documented_methods_are_the_ones_there_are():
    documented = re.findall(
        r'^ *- ``"(\w+)"``:', dl.dilated_conv2d.__doc__, re.MULTILINE
    )
    assert tuple(documented) == METHODS
    assert len(set(_METHODS.values())) == 5  # no name stands for another's code
    with pytest.raises(ValueError, match=f"one of {', '.join(METHODS)}; got 'no'"):
        dl.dilated_conv2d(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), method="no")


# Bad input: one error that repeats the value and says what is right

X, W, B = torch.ones(1, 2, 7, 7), torch.ones(4, 2, 3, 3), torch.ones(4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": X[0]}, ValueError, r"x must have shape \(N, C, H, W\), got \(2, 7, 7\)"),
        ({"x": X[None]}, ValueError, r"\(N, C, H, W\), got \(1, 1, 2, 7, 7\)"),
        ({"x": X[:, :, :0]}, ValueError, "input size must be at least 1, got 0"),
        (
            {"weight": W[0]},
            ValueError,
            r"weight must have shape \(O, C, kH, kW\), got \(2, 3, 3\)",
        ),
        (
            {"weight": torch.ones(4, 5, 3, 3)},
            ValueError,
            r"same channels C, got x \(1, 2, 7, 7\) with 2 and weight \(4, 5, 3, 3\) "
            "with 5",
        ),
        (
            {"bias": B[:3]},
            ValueError,
            r"bias must have shape \(O,\) = \(4,\), got \(3,\)",
        ),
        ({"bias": B[:, None]}, ValueError, r"= \(4,\), got \(4, 1\)"),
        (
            {"x": X.double()},
            TypeError,
            "one floating dtype, got x: torch.float64, weight",
        ),
        (
            {"x": X.int(), "weight": W.int()},
            TypeError,
            "got x: torch.int32, weight: torch",
        ),
        (
            {"x": X.bool(), "weight": W.bool(), "bias": None},
            TypeError,
            "one floating dtype, got x: torch.bool, weight: torch.bool",
        ),
        (
            {"x": X.cfloat(), "weight": W.cfloat(), "bias": None},
            TypeError,
            "one floating dtype, got x: torch.complex64, weight: torch.complex64",
        ),
        (
            {"x": X.to("meta")},
            ValueError,
            "must be on one device, got x: meta, weight: cpu, bias: cpu",
        ),
        ({"dilation": True}, TypeError, "dilation must be a whole number, got True"),
        ({"bias": B.half()}, TypeError, "floating dtype, .*bias: torch.float16"),
        ({"x": X.numpy()}, TypeError, "x must be a torch.Tensor, got ndarray"),
        ({"weight": [1.0]}, TypeError, "weight must be a torch.Tensor, got list"),
        ({"bias": 1.0}, TypeError, "bias must be a torch.Tensor, got float"),
        (
            {"method": "fft"},
            ValueError,
            "method must be one of loops, inflate, unfold, shift, space_to_batch; got "
            "'fft'",
        ),
        ({"dilation": 0}, ValueError, "dilation must be at least 1, got 0"),
        ({"dilation": (1, -2)}, ValueError, "dilation must be at least 1, got -2"),
        ({"dilation": None}, TypeError, "dilation must be a whole number, got None"),
        ({"padding": (0, 0.5)}, TypeError, "padding must be a whole number, got 0.5"),
        ({"dilation": 1.5}, TypeError, "dilation must be a whole number, got 1.5"),
        (
            {"dilation": (1, 2, 3)},
            ValueError,
            r"dilation must be one number or a pair \(vertical, horizontal\), got \(1,",
        ),
        ({"padding": -1}, ValueError, "padding must be at least 0, got -1"),
        ({"padding": None}, TypeError, "padding must be a whole number, got None"),
        (
            {"padding": (1,)},
            ValueError,
            r"padding must be one number or a pair .*\(1,\)",
        ),
        (
            {"dilation": 4},
            ValueError,
            "larger than the padded input: kernel_size 3 with dilation 4 spans 9, but "
            "input size 7",
        ),
        (
            {"dilation": (1, 6), "padding": (0, 2)},
            ValueError,
            r"dilation 6 spans 13, but input size 7 with padding \(2, 2\) has 11",
        ),
        ({"weight": W[:, :, :0]}, ValueError, "kernel_size must be at least 1, got 0"),
        (
            {"weight": W[:0]},
            ValueError,
            r"at least one channel O and C, got \(0, 2, 3, 3",
        ),
        ({"weight": W[:, :0]}, ValueError, r"one channel O and C, got \(4, 0, 3, 3\)"),
        ({"method": ["loops"]}, ValueError, r"method must be one of .*\['loops'\]"),
        ({"padding": "same"}, TypeError, "padding must be a whole number, got 'same'"),
        ({"padding": ((1, 2), (3, 4))}, TypeError, r"a whole number, got \(1, 2\)"),
    ],
)
@each_method
def test_bad_input_is_refused(method, arguments, error, message):
    good = {"x": X, "weight": W, "bias": B, "method": method}
    assert dl.dilated_conv2d(**good).shape == (1, 4, 5, 5)
    with pytest.raises(error, match=message):
        dl.dilated_conv2d(**good | arguments)
