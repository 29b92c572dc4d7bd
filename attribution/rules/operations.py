"""Which operations are alike: the names that rules are given by."""

from collections.abc import Callable
from math import inf

from attribution.calls import Bound

RECTIFIERS = frozenset(
    [
        "relu",
        "relu6",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "mish",
        "hardswish",
        "softplus",
        "prelu",
        "rrelu",
    ]
)
"""Activations that let positive values pass and hold negative ones back."""

CUTS = frozenset(["hardtanh", "clamp", "clamp_min", "threshold", "maximum"])
"""Operations that are a rectifier where they cut at zero: ReLU6 is hardtanh(0, 6)."""

CLAMPS: dict[str, Callable[[Bound], tuple[float, float]]] = {
    "relu": lambda _bound: (0.0, inf),
    "relu6": lambda _bound: (0.0, 6.0),
    "hardtanh": lambda bound: (float(bound.argument(1, "min_val", -1.0)), float(bound.argument(2, "max_val", 1.0))),
}
"""Operations that are min(max(x, low), high), with their ends (low, high)."""

PIECEWISE_LINEAR = frozenset(
    ["relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "leaky_relu", "prelu", "rrelu", "threshold", "abs"]
)

ELEMENTWISE = (
    RECTIFIERS
    | CUTS
    | frozenset(
        [
            "sigmoid",
            "hardsigmoid",
            "tanh",
            "softsign",
            "log_sigmoid",  # what F.logsigmoid calls itself
            "hardshrink",
            "softshrink",
            "tanhshrink",
            "exp",
            "exp2",
            "expm1",
            "log",
            "log2",
            "log10",
            "log1p",
            "logit",
            "sqrt",
            "rsqrt",
            "square",
            "reciprocal",
            "pow",
            "float_power",
            "abs",
            "neg",
            "sign",
            "sin",
            "cos",
            "tan",
            "asin",
            "acos",
            "atan",
            "sinh",
            "cosh",
            "tanh",
            "asinh",
            "acosh",
            "atanh",
            "erf",
            "erfc",
            "sinc",
            "clamp_max",
            "minimum",
            "round",
            "floor",
            "ceil",
            "trunc",
            "frac",
            "nan_to_num",
            "erfinv",
        ]
    )
)
"""Functions of one number at a time."""

PRODUCTS = frozenset(
    [
        "mul",
        "matmul",
        "einsum",
        "outer",
        "dot",
        "kron",
        "tensordot",
        "linear",
        "bilinear",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
    ]
)
"""Operations that are linear in each of their tensors."""

SELECTIONS = frozenset(["where", "masked_fill", "masked_select"])
"""Linear as long as what they select by stays the same."""

CONVOLUTIONS = frozenset(["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"])

SOFTMAXES = frozenset({"softmax", "log_softmax", "logsumexp"})

MAX_POOLS = frozenset(
    ["max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"]
)

SUMS = frozenset(["add", "sub", "rsub", "cat", "stack", "where", "masked_fill"])
"""Operations that put activations and constants together."""

MEANS = frozenset(
    [
        "mean",
        "sum",
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "adaptive_avg_pool3d",
    ]
)
"""Many inputs added into one output with fixed weights."""
