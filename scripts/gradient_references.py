#!/usr/bin/env python3
"""Write fixtures/gradients/*.cases: reference gradients for the rules of crates/autodiff.

Each case is one small model. It is evaluated in float64 by onnx's reference evaluator, or by a NumPy formula where that
evaluator lacks the operator or computes it in float32, and differentiated by central differences of sum(w * y).

A file is a sequence of cases, each a little-endian uint32 length and an ONNX model of that many bytes. Besides the
model's own initializers it holds `value/<input>`, `weight/<output>` and `gradient/<input>` (float32).

batch_norm_steps.onnx is a network that trains by the statistics of its batches: beside its own initializers it holds
`data/x` and `data/target`, and `after/<name>`, what every initializer is after one pass over them in batches of 4.

Needs: pip install numpy onnx==1.23.2. Run from the repository's root; the result is the same in every run.
"""

import itertools
import math
import pathlib
import struct
import zlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

OPSET = 26
FOLDER = pathlib.Path("fixtures/gradients")
families = {}
erf = np.vectorize(math.erf)


class D:
    """An input that is differentiated."""

    def __init__(self, *shape, low=-2.0, high=2.0, values=None):
        self.shape, self.low, self.high, self.values = shape, low, high, values


def ints(*values, dtype=np.int64):
    return np.array(values, dtype=dtype)


def evaluated(results):
    """What a formula gave, as a list of outputs."""
    return list(results) if isinstance(results, tuple) else [results]


def case(family, op, *inputs, outputs=1, formula=None, domain="", note="", **attributes):
    """Add a case. Inputs are D (differentiated), arrays (constants) or None (left out)."""
    cases = families.setdefault(family, [])
    label = f"{domain}.{op}" if domain else op
    seed = zlib.crc32(f"{label}/{len([c for c in cases if c[0] == label])}".encode())
    rng = np.random.default_rng(seed)
    names, values, wrt, constants = [], {}, [], {}
    for i, x in enumerate(inputs):
        name = "" if x is None else f"x{i}"
        names.append(name)
        if isinstance(x, D):
            size = int(np.prod(x.shape))
            # Evenly spread and shuffled: no two elements are close, so no comparison changes within a difference.
            spread = (np.arange(size) + rng.uniform(0.3, 0.7, size)) / max(size, 1)
            drawn = x.low + (x.high - x.low) * rng.permutation(spread)
            value = drawn.reshape(x.shape) if x.values is None else np.array(x.values, np.float64).reshape(x.shape)
            values[name] = value.astype(np.float32).astype(np.float64)
            wrt.append(name)
        elif x is not None:
            constants[name] = np.asarray(x)

    out = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, out, name=f"{op.lower()}_node", domain=domain or None, **attributes)

    opsets = [helper.make_opsetid("", OPSET)] + ([helper.make_opsetid(domain, 1)] if domain else [])

    def model(float_type, shapes=None):
        def constant(name, array):
            if array.dtype == np.float64:
                array = array.astype(np.float64 if float_type == TensorProto.DOUBLE else np.float32)
            return numpy_helper.from_array(array, name)

        infos = [helper.make_tensor_value_info(n, float_type, values[n].shape) for n in wrt]
        results = [
            helper.make_tensor_value_info(
                n, float_type if shapes is None else shapes[n][0], None if shapes is None else shapes[n][1]
            )
            for n in out
        ]
        graph = helper.make_graph([node], f"{op} {note}".strip(), infos, results, [constant(*c) for c in constants.items()])
        return helper.make_model(graph, ir_version=10, opset_imports=opsets)

    if formula is None:
        evaluator = ReferenceEvaluator(model(TensorProto.DOUBLE))
        evaluate = lambda feeds: evaluator.run(None, feeds)
    else:
        evaluate = lambda feeds: evaluated(formula(*[feeds.get(n, constants.get(n)) for n in names]))
    y = [np.asarray(v) for v in evaluate(values)]
    shapes = {}
    weights = {}
    for name, v in zip(out, y):
        is_float = np.issubdtype(v.dtype, np.floating)
        kind = TensorProto.FLOAT if is_float else helper.np_dtype_to_tensor_dtype(v.dtype)
        shapes[name] = (kind, v.shape)
        if is_float:
            weights[name] = rng.uniform(-1, 1, v.shape).astype(np.float32).astype(np.float64)

    def total(feeds):
        return sum(float(np.sum(weights[n] * v)) for n, v in zip(out, evaluate(feeds)) if n in weights)

    def difference(name, h):
        gradient = np.zeros(values[name].shape)
        for index in np.ndindex(*values[name].shape):
            parts = []
            for sign in (1, -1):
                feeds = {n: v.copy() for n, v in values.items()}
                feeds[name][index] += sign * h
                parts.append(total(feeds))
            gradient[index] = (parts[0] - parts[1]) / (2 * h)
        return gradient

    result = model(TensorProto.FLOAT, shapes)
    for name in wrt:
        gradient, check = difference(name, 1e-4), difference(name, 5e-5)
        error = np.max(np.abs(gradient - check), initial=0) / max(1.0, np.max(np.abs(gradient), initial=0))
        if error > 1e-5:
            raise SystemExit(f"{family}/{op} {note} {attributes}: the difference for {name} is not settled ({error:.1e})")
        # One step of Richardson's extrapolation.
        gradient = (4 * check - gradient) / 3
        result.graph.initializer.append(numpy_helper.from_array(values[name].astype(np.float32), f"value/{name}"))
        result.graph.initializer.append(numpy_helper.from_array(gradient.astype(np.float32), f"gradient/{name}"))
    for name, w in weights.items():
        result.graph.initializer.append(numpy_helper.from_array(w.astype(np.float32), f"weight/{name}"))
    cases.append((label, result.SerializeToString()))


def elementwise():
    f = "elementwise"
    pairs = [((2, 3), (2, 3)), ((2, 3), (3,)), ((3,), (2, 3)), ((2, 1, 3), (4, 1)), ((), (2, 2)), ((2, 2), ()), ((), ()), ((1, 3), (2, 1)), ((1,), (1, 1))]
    for op in ("Add", "Sub", "Mul"):
        for a, b in pairs:
            case(f, op, D(*a), D(*b))
    for a, b in pairs:
        case(f, "Div", D(*a), D(*b, low=0.5))
        case(f, "Pow", D(*a, low=0.3), D(*b))
    case(f, "Pow", D(2, 3), np.array(2.0))
    case(f, "Pow", D(2, 3), np.array(3.0))
    case(f, "Pow", D(2, 3, low=0.2), np.array(-0.5))
    case(f, "Pow", D(2, 3), ints(2))
    case(f, "Mod", D(5, low=-3.0), D(5, low=0.5, high=1.3), fmod=1)
    for op in ("Neg", "Abs", "Exp", "Sin", "Cos", "Sinh", "Cosh", "Atan", "Asinh", "Identity", "Floor", "Ceil", "Round", "Sign"):
        if op in ("Floor", "Ceil", "Round", "Sign"):
            case(f, op, D(2, 3, low=0.1, high=0.45))
        else:
            case(f, op, D(2, 3))
    case(f, "Erf", D(2, 3), formula=erf)
    case(f, "Tan", D(5, low=-1.2, high=1.2))
    for op in ("Asin", "Acos", "Atanh"):
        case(f, op, D(5, low=-0.9, high=0.9))
    case(f, "Acosh", D(5, low=1.3, high=3.0))
    for op in ("Sqrt", "Log", "Reciprocal"):
        case(f, op, D(2, 3, low=0.4))
        case(f, op, D(low=0.4))
    case(f, "Where", np.array([[True, False, True], [False, True, False]]), D(2, 3), D(3))
    case(f, "Where", np.array([True, False, True]), D(), D(2, 1))
    case(f, "Clip", D(2, 5), np.array(-0.7), np.array(1.1))
    case(f, "Clip", D(2, 5), D(values=-0.71), D(values=1.13))
    case(f, "Clip", D(2, 5), None, np.array(0.6))
    case(f, "Clip", D(2, 5))
    case(f, "Expand", D(3, 1), ints(2, 3, 4))
    case(f, "Expand", D(), ints(2, 2))
    case(f, "Expand", D(2, 3), ints(1, 1))
    for op in ("Sum", "Mean", "Max", "Min"):
        case(f, op, D(2, 3))
        case(f, op, D(2, 3), D(3))
        case(f, op, D(2, 3), D(2, 1), D(), D(1, 3))
    # Where the bounds cross, the upper one wins.
    case(f, "Clip", D(2, 5), D(values=0.9), D(values=-0.4))
    case(f, "CastLike", D(2, 3), np.zeros(4))


def activation():
    f = "activation"
    for op in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign"):
        case(f, op, D(2, 5))
        case(f, op, D(1, values=0.37))
    case(f, "LeakyRelu", D(2, 5), formula=lambda x: np.where(x > 0, x, 0.01 * x))
    case(f, "LeakyRelu", D(2, 5), alpha=0.3, formula=lambda x: np.where(x > 0, x, np.float32(0.3) * x))
    case(f, "Elu", D(2, 5), alpha=0.7, formula=lambda x: np.where(x > 0, x, 0.7 * (np.exp(x) - 1)))
    case(f, "Celu", D(2, 5), alpha=0.7, formula=lambda x: np.where(x > 0, x, 0.7 * (np.exp(x / 0.7) - 1)))
    selu = (1.67326319217681884765625, 1.05070102214813232421875)
    case(f, "Selu", D(2, 5), formula=lambda x: selu[1] * np.where(x > 0, x, selu[0] * (np.exp(x) - 1)))
    case(f, "ThresholdedRelu", D(2, 5), alpha=0.5, formula=lambda x: np.where(x > 0.5, x, 0.0))
    case(f, "PRelu", D(2, 3, 2), D(3, 1), formula=lambda x, s: np.where(x > 0, x, s * x))
    case(f, "PRelu", D(2, 3), D(1), formula=lambda x, s: np.where(x > 0, x, s * x))
    case(f, "HardSigmoid", D(2, 5, low=-4, high=4), formula=lambda x: np.clip(0.2 * x + 0.5, 0, 1))
    case(f, "HardSigmoid", D(2, 5, low=-4, high=4), alpha=0.5, beta=0.3, formula=lambda x: np.clip(0.5 * x + 0.3, 0, 1))
    case(f, "HardSwish", D(3, 5, low=-4.5, high=4.5), formula=lambda x: x * np.clip(x / 6 + 0.5, 0, 1))
    case(f, "Gelu", D(2, 5), formula=lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2))))
    tanh_gelu = lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    case(f, "Gelu", D(2, 5), approximate="tanh", formula=tanh_gelu)
    case(f, "Mish", D(2, 5), formula=lambda x: x * np.tanh(np.log1p(np.exp(x))))

    def softmax(axis, log):
        def evaluate(x):
            e = x - np.max(x, axis=axis, keepdims=True)
            e = e - np.log(np.sum(np.exp(e), axis=axis, keepdims=True))
            return e if log else np.exp(e)

        return evaluate

    for shape, axis in (((2, 5), -1), ((2, 3, 2), 1), ((3, 2), 0), ((4,), 0)):
        case(f, "Softmax", D(*shape), axis=axis, formula=softmax(axis, False))
        case(f, "LogSoftmax", D(*shape), axis=axis, formula=softmax(axis, True))
    case(f, "Dropout", D(2, 3), formula=lambda x: x)
    case(f, "Dropout", D(2, 3), np.array(0.4, np.float32), np.array(False), formula=lambda x, r, t: x)
    for shape in ((2, 5), (), (0, 3)):
        case(f, "Swish", D(*shape), formula=lambda x: x / (1 + np.exp(-x)))
        case(f, "Swish", D(*shape), alpha=1.75, formula=lambda x: x / (1 + np.exp(-1.75 * x)))
        case(f, "Shrink", D(*shape), formula=lambda x: np.where(np.abs(x) > 0.5, x, 0.0))
        case(f, "Shrink", D(*shape), lambd=0.75, bias=0.25, formula=lambda x: np.where(x < -0.75, x + 0.25, np.where(x > 0.75, x - 0.25, 0.0)))
    for axis in (0, -1):
        case(f, "Hardmax", D(3, 4), axis=axis)


def linear():
    f = "linear"
    for a, b in (((2, 3), (3, 4)), ((2, 2, 3), (3, 2)), ((2, 2, 3), (2, 3, 2)), ((3,), (3,)), ((3,), (3, 2)), ((2, 3), (3,)), ((3,), (2, 3, 2)), ((2, 2, 3), (3,)), ((2, 3), (2, 3, 2)), ((2, 1, 2, 3), (2, 3, 2)), ((1, 2, 3), (2, 3, 1)), ((2, 1, 3, 2), (1, 2, 2, 3)), ((1, 2, 2), (2, 2))):
        case(f, "MatMul", D(*a), D(*b))
    for ta, tb in itertools.product((0, 1), (0, 1)):
        a, b = ((2, 3), (3, 2))[ta], ((3, 4), (4, 3))[tb]
        case(f, "Gemm", D(*a), D(*b), D(4), transA=ta, transB=tb)
        case(f, "Gemm", D(*a), D(*b), D(2, 1), transA=ta, transB=tb, alpha=0.5, beta=1.75)
    case(f, "Gemm", D(2, 3), D(3, 4))
    case(f, "Gemm", D(2, 3), D(3, 4), D(), beta=0.5)
    for equation, shapes in (("ij,jk->ik", ((2, 3), (3, 2))), ("bij,bkj->bik", ((2, 2, 3), (2, 2, 3))), ("ij->ji", ((2, 3),)), ("ij->i", ((2, 3),)), ("i,j,ij->", ((2,), (3,), (2, 3))), ("bhid,bhjd->bhij", ((1, 2, 2, 3), (1, 2, 2, 3)))):
        case(f, "Einsum", *[D(*s) for s in shapes], equation=equation, formula=lambda *x, e=equation: np.einsum(e, *x))
    # Without an arrow, with ellipses that broadcast, with diagonals.
    for equation, shapes in (("ij,jk", ((2, 3), (3, 2))), ("ba", ((2, 3),)), ("...ij,...jk->...ik", ((2, 2, 3), (2, 3, 2))), ("...ij,...jk", ((2, 1, 2, 3), (2, 3, 3, 2))), ("...i,i->...", ((2, 2, 3), (3,))), ("ii->i", ((3, 3),)), ("ii", ((3, 3),)), ("bii,bi->b", ((2, 3, 3), (2, 3))), ("a...a->...", ((2, 3, 2),)), ("ii,ij->j", ((2, 2), (2, 3)))):
        case(f, "Einsum", *[D(*s) for s in shapes], equation=equation, formula=lambda *x, e=equation: np.einsum(e, *x))


def matrix():
    f = "matrix"
    for shape in ((1, 1), (2, 2), (3, 3), (2, 3, 3), (2, 1, 4, 4), (5, 5)):
        case(f, "Det", D(*shape), formula=np.linalg.det)
    singular = [[1, 2, 3], [2, 4, 6], [0, 1, -1]]
    case(f, "Det", D(3, 3, values=singular), formula=np.linalg.det)
    case(f, "Det", D(2, 2, values=np.zeros((2, 2))), formula=np.linalg.det)
    regular = lambda *shape: D(*shape, values=np.random.default_rng(1).uniform(-1, 1, shape) + 3 * np.eye(shape[-1]))
    for shape in ((2, 2), (3, 3), (2, 3, 3)):
        case(f, "Inverse", regular(*shape), domain="com.microsoft", formula=np.linalg.inv)


def conv_numpy(x, w, b=None, strides=None, pads=None, dilations=None, group=1):
    """A direct convolution of any rank."""
    axes = x.ndim - 2
    strides, dilations, pads = strides or [1] * axes, dilations or [1] * axes, pads or [0] * 2 * axes
    x = np.pad(x, [(0, 0), (0, 0)] + [(pads[i], pads[i + axes]) for i in range(axes)])
    outputs, channels, kernel = w.shape[0], w.shape[1], w.shape[2:]
    steps = [(x.shape[i + 2] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in range(axes)]
    y = np.zeros((x.shape[0], outputs, *steps), x.dtype)
    for g in range(group):
        xs = x[:, g * channels : (g + 1) * channels]
        rows = slice(g * outputs // group, (g + 1) * outputs // group)
        for tap in np.ndindex(*kernel):
            window = tuple(slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, n, s in zip(tap, dilations, steps, strides))
            y[:, rows] += np.einsum("nc...,mc->nm...", xs[(slice(None), slice(None), *window)], w[(rows, slice(None), *tap)])
    return y if b is None else y + b.reshape(1, -1, *[1] * axes)


def same_pads(x, w, strides, dilations, upper):
    begin, end = [], []
    for size, k, s, d in zip(x[2:], w[2:], strides, dilations):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begin.append(small if upper else large)
        end.append(large if upper else small)
    return begin + end


def conv_transpose_numpy(x, w, b=None, strides=None, pads=None, dilations=None, group=1, output_padding=None):
    axes = x.ndim - 2
    strides, dilations, pads = strides or [1] * axes, dilations or [1] * axes, pads or [0] * 2 * axes
    extra = output_padding or [0] * axes
    inputs, outputs, kernel = x.shape[1] // group, w.shape[1], w.shape[2:]
    full = [(x.shape[i + 2] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 + extra[i] for i in range(axes)]
    y = np.zeros((x.shape[0], outputs * group, *full), x.dtype)
    for g in range(group):
        xs = x[:, g * inputs : (g + 1) * inputs]
        ws = w[g * inputs : (g + 1) * inputs]
        for tap in np.ndindex(*kernel):
            window = tuple(slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, n, s in zip(tap, dilations, x.shape[2:], strides))
            y[(slice(None), slice(g * outputs, (g + 1) * outputs), *window)] += np.einsum("nc...,cm->nm...", xs, ws[(slice(None), slice(None), *tap)])
    y = y[(slice(None), slice(None), *[slice(pads[i], full[i] - pads[i + axes]) for i in range(axes)])]
    return y if b is None else y + b.reshape(1, -1, *[1] * axes)


def convolution():
    f = "convolution"

    def conv(x, w, bias=False, auto_pad=None, **attributes):
        axes = len(x) - 2
        numpy = dict(attributes)
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            numpy["pads"] = same_pads(x, w, attributes.get("strides", [1] * axes), attributes.get("dilations", [1] * axes), auto_pad == "SAME_UPPER")
        if auto_pad:
            attributes["auto_pad"] = auto_pad
        inputs = [D(*x), D(*w)] + ([D(w[0])] if bias else [])
        case(f, "Conv", *inputs, formula=lambda *v: conv_numpy(*v, **numpy), **attributes)

    conv((2, 2, 5), (3, 2, 3), bias=True)
    conv((2, 2, 6), (3, 2, 3), strides=[2], pads=[1, 0])
    conv((2, 2, 7), (2, 2, 2), strides=[3], dilations=[2], pads=[1, 2])
    conv((2, 2, 4, 4), (3, 2, 3, 3), bias=True, pads=[1, 1, 1, 1])
    conv((2, 3, 4, 3), (2, 3, 1, 1), bias=True)
    conv((2, 2, 5, 4), (3, 2, 1, 1), strides=[2, 2])
    conv((1, 2, 4, 4), (2, 2, 1, 1), pads=[1, 0, 0, 1])
    conv((2, 2, 5, 6), (2, 2, 3, 2), strides=[2, 2], pads=[1, 0, 2, 1])
    conv((1, 2, 6, 5), (2, 2, 2, 2), strides=[3, 2], pads=[0, 1, 1, 0])
    conv((1, 2, 6, 6), (2, 2, 3, 2), dilations=[2, 3], pads=[2, 1, 1, 2])
    conv((1, 2, 7, 6), (2, 2, 2, 3), dilations=[2, 1], strides=[2, 3], pads=[1, 1, 1, 1])
    conv((2, 4, 4, 4), (6, 2, 3, 3), group=2, bias=True, pads=[1, 1, 1, 1])
    conv((1, 4, 5, 5), (4, 2, 2, 3), group=2, strides=[2, 1], pads=[0, 1, 1, 1])
    conv((2, 3, 4, 4), (3, 1, 3, 3), group=3, pads=[1, 1, 1, 1])
    conv((2, 3, 5, 4), (3, 1, 3, 3), group=3, strides=[2, 2], pads=[1, 1, 1, 1])
    conv((1, 3, 4, 4), (6, 1, 3, 3), group=3, pads=[1, 1, 1, 1], bias=True)
    conv((1, 4, 3, 3), (4, 2, 1, 1), group=2)
    conv((1, 2, 5, 5), (2, 2, 5, 5), pads=[2, 2, 2, 2])
    conv((1, 1, 4, 4), (2, 1, 3, 3), pads=[3, 3, 2, 3])
    conv((1, 1, 5, 5), (2, 1, 4, 4), strides=[3, 3])
    for auto_pad in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        conv((1, 2, 5, 6), (2, 2, 3, 2), auto_pad=auto_pad)
        conv((1, 2, 5, 6), (2, 2, 3, 2), auto_pad=auto_pad, strides=[2, 2])
    conv((1, 2, 3, 3, 4), (2, 2, 2, 2, 2), bias=True, pads=[0, 1, 0, 1, 0, 0])
    conv((1, 2, 4, 3, 4), (2, 1, 2, 2, 2), group=2, strides=[2, 1, 2], pads=[1, 0, 0, 0, 1, 0])
    # Sizes for which the gradient of the weights takes other forms.
    conv((1, 16, 16, 17), (1, 16, 2, 1), pads=[0, 0, 1, 0])
    conv((2, 2, 2, 3), (12, 2, 2, 3), pads=[1, 1, 0, 1])
    conv((2, 3, 2, 2), (9, 3, 1, 1))
    conv((2, 5, 1, 1), (9, 5, 1, 1))
    conv((2, 5, 3, 2), (9, 5, 1, 1), strides=[2, 2])
    # Many samples, and kernels with an axis of 1.
    conv((4, 4, 5, 5), (2, 4, 2, 2), pads=[1, 0, 0, 1])
    conv((3, 4, 5, 4), (2, 4, 3, 1), strides=[2, 1], dilations=[1, 2])
    conv((3, 4, 3, 5), (2, 4, 1, 3), pads=[1, 1, 0, 0])
    conv((3, 4, 6), (2, 4, 3), pads=[1, 1])
    conv((2, 1, 3, 3), (20, 1, 3, 3), pads=[0, 1, 1, 0])
    conv((2, 8, 2, 2, 2), (4, 4, 2, 1, 2), group=2)
    # Long kernels, few and many steps.
    conv((1, 2, 32), (2, 2, 30))
    conv((1, 4, 30), (4, 2, 27), group=2)
    conv((1, 1, 60), (2, 1, 58), pads=[30, 30])
    conv((1, 2, 21, 20), (2, 1, 2, 2), group=2, pads=[1, 0, 0, 1])
    conv((1, 1, 12, 12), (2, 1, 3, 3), pads=[1, 1, 1, 1])
    conv((1, 2, 12, 10), (2, 1, 2, 3), group=2, pads=[1, 1, 0, 1])
    conv((1, 2, 21, 11), (2, 2, 2, 2), strides=[2, 1], pads=[1, 0, 0, 0])
    conv((1, 1, 14, 13), (1, 1, 3, 2), dilations=[2, 3], pads=[2, 1, 1, 2])
    conv((1, 4, 11, 10), (2, 2, 1, 2), group=2)
    # Depthwise with long rows, and with dilations and steps that leave out the end.
    conv((2, 2, 3, 30), (2, 1, 2, 2), group=2, pads=[1, 0, 0, 1])
    conv((1, 2, 2, 45), (2, 1, 2, 2), group=2, pads=[1, 0, 0, 1])
    conv((1, 2, 12, 2), (2, 1, 12, 2), group=2, pads=[12, 0, 12, 1])
    conv((2, 2, 8, 7), (2, 1, 3, 2), group=2, strides=[2, 3], dilations=[2, 1], pads=[1, 0, 1, 1])
    conv((1, 3, 6, 7), (3, 1, 2, 3), group=3, strides=[1, 2], dilations=[3, 2], pads=[2, 1, 0, 2])

    def transposed(x, w, bias=False, padding=None, **attributes):
        numpy = {k: v for k, v in attributes.items() if k not in ("auto_pad", "output_shape")}
        if padding:
            numpy["pads"] = padding
        inputs = [D(*x), D(*w)] + ([D(w[1] * attributes.get("group", 1))] if bias else [])
        case(f, "ConvTranspose", *inputs, formula=lambda *v: conv_transpose_numpy(*v, **numpy), **attributes)

    transposed((2, 2, 4), (2, 3, 3), bias=True)
    transposed((1, 2, 3), (2, 2, 3), strides=[2], pads=[1, 0], output_padding=[1])
    transposed((1, 2, 3, 3), (2, 2, 3, 3), bias=True)
    transposed((1, 2, 3, 3), (2, 2, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])
    transposed((1, 2, 3, 4), (2, 2, 2, 2), strides=[2, 3], pads=[0, 1, 1, 0])
    transposed((1, 2, 3, 3), (2, 2, 2, 2), dilations=[2, 2], pads=[1, 0, 0, 1])
    transposed((1, 4, 3, 3), (4, 1, 3, 3), group=2, strides=[2, 1], bias=True)
    transposed((1, 3, 3, 3), (3, 1, 2, 2), group=3, strides=[2, 2])
    # Full size (3 - 1) * 2 + 3 = 7 by 7, total padding 1 an axis.
    transposed((1, 1, 3, 3), (1, 2, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER", padding=[0, 0, 1, 1])
    transposed((1, 1, 3, 3), (1, 2, 3, 3), strides=[2, 2], auto_pad="SAME_LOWER", padding=[1, 1, 0, 0])
    transposed((1, 1, 3, 3), (1, 2, 3, 3), strides=[2, 2], output_shape=[6, 5], padding=[1, 1, 0, 1])
    transposed((1, 1, 2, 2, 2), (1, 2, 2, 2, 2), strides=[2, 1, 1])


def windows(x, kernel, strides, pads, dilations, ceil):
    """For each output position of a pooling the slices' index arrays along each axis."""
    axes = len(kernel)
    result = []
    for a in range(axes):
        size, extent = x.shape[a + 2], (kernel[a] - 1) * dilations[a] + 1
        room = size + pads[a] + pads[a + axes] - extent
        steps = (-(-room // strides[a]) if ceil else room // strides[a]) + 1
        if ceil and (steps - 1) * strides[a] >= size + pads[a]:
            steps -= 1
        result.append([[o * strides[a] - pads[a] + k * dilations[a] for k in range(kernel[a])] for o in range(steps)])
    return result


def pool_numpy(x, how, kernel_shape, strides=None, pads=None, dilations=None, ceil_mode=0, count_include_pad=0, storage_order=0, p=2):
    axes = x.ndim - 2
    strides, dilations, pads = strides or [1] * axes, dilations or [1] * axes, pads or [0] * 2 * axes
    grid = windows(x, kernel_shape, strides, pads, dilations, ceil_mode)
    y = np.zeros((*x.shape[:2], *[len(g) for g in grid]), x.dtype)
    for o in np.ndindex(*y.shape[2:]):
        inside, padded = [], 1
        for a in range(axes):
            at = grid[a][o[a]]
            inside.append([p for p in at if 0 <= p < x.shape[a + 2]])
            padded *= len([p for p in at if -pads[a] <= p < x.shape[a + 2] + pads[a + axes]])
        piece = x[(slice(None), slice(None), *np.ix_(*inside))]
        over = tuple(range(2, x.ndim))
        if how == "max":
            y[(..., *o)] = piece.max(over)
        elif how == "norm":
            y[(..., *o)] = np.sum(np.abs(piece) ** p, axis=over) ** (1 / p)
        else:
            y[(..., *o)] = piece.sum(over) / (padded if count_include_pad else np.prod([len(i) for i in inside]))
    return y


def pooling():
    f = "pooling"

    def pool(op, shape, auto_pad=None, **attributes):
        numpy = dict(attributes)
        if auto_pad:
            attributes["auto_pad"] = auto_pad
            kernel = attributes["kernel_shape"]
            if auto_pad != "VALID":
                ones = [1] * len(kernel)
                numpy["pads"] = same_pads(shape, (1, 1, *kernel), attributes.get("strides", ones), attributes.get("dilations", ones), auto_pad == "SAME_UPPER")
        how = {"MaxPool": "max", "AveragePool": "mean", "LpPool": "norm"}[op]
        case(f, op, D(*shape), formula=lambda x: pool_numpy(x, how, **numpy), **attributes)

    for op in ("MaxPool", "AveragePool"):
        pool(op, (2, 2, 6), kernel_shape=[2], strides=[2])
        pool(op, (2, 2, 4, 4), kernel_shape=[2, 2], strides=[2, 2])
        pool(op, (2, 2, 5, 5), kernel_shape=[2, 2], strides=[2, 2])
        pool(op, (1, 2, 5, 5), kernel_shape=[3, 3])
        pool(op, (1, 2, 5, 6), kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])
        pool(op, (1, 2, 5, 6), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
        pool(op, (1, 1, 6, 6), kernel_shape=[2, 2], strides=[3, 3], ceil_mode=1)
        pool(op, (1, 1, 6, 7), kernel_shape=[2, 3], dilations=[2, 2], strides=[1, 2])
        pool(op, (1, 2, 3, 3, 4), kernel_shape=[2, 2, 2], strides=[1, 1, 2])
        for auto_pad in ("SAME_UPPER", "SAME_LOWER", "VALID"):
            pool(op, (1, 2, 5, 6), kernel_shape=[3, 2], strides=[2, 2], auto_pad=auto_pad)
            pool(op, (1, 1, 4, 5), kernel_shape=[2, 2], auto_pad=auto_pad)
    pool("AveragePool", (1, 2, 4, 5), kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
    pool("AveragePool", (1, 2, 4, 5), kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2], count_include_pad=1)
    case(f, "GlobalAveragePool", D(2, 3, 2, 3), formula=lambda x: x.mean((2, 3), keepdims=True))
    case(f, "GlobalAveragePool", D(2, 3, 4), formula=lambda x: x.mean(2, keepdims=True))
    case(f, "GlobalMaxPool", D(2, 3, 2, 3), formula=lambda x: x.max((2, 3), keepdims=True))
    for attributes in (dict(kernel_shape=[2, 3]), dict(kernel_shape=[2, 2], strides=[2, 2])):
        pool("MaxPool", (2, 2, 4, 6), storage_order=1, **attributes)
    for p in (1, 2, 3):
        for shape, attributes in (
            ((2, 2, 6), dict(kernel_shape=[2], strides=[2])),
            ((1, 2, 4, 5), dict(kernel_shape=[3, 2])),
            ((1, 2, 5, 6), dict(kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])),
            ((1, 1, 6, 7), dict(kernel_shape=[2, 3], dilations=[2, 2], strides=[1, 2])),
            ((1, 2, 5, 6), dict(kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)),
            ((1, 1, 3, 3, 4), dict(kernel_shape=[2, 2, 2], strides=[1, 1, 2])),
        ):
            pool("LpPool", shape, p=p, **attributes)
        norm = lambda x, p=p: np.sum(np.abs(x) ** p, axis=tuple(range(2, x.ndim)), keepdims=True) ** (1 / p)
        case(f, "GlobalLpPool", D(2, 3, 2, 3), p=p, formula=norm)
        case(f, "GlobalLpPool", D(2, 3, 4), p=p, formula=norm)
    pool("LpPool", (1, 2, 5, 6), kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER")


def normalization():
    f = "normalization"

    def batch_norm(x, s, b, m, v, epsilon=1e-5):
        c = lambda t: t.reshape(1, -1, *[1] * (x.ndim - 2))
        return (x - c(m)) / np.sqrt(c(v) + epsilon) * c(s) + c(b)

    for shape in ((2, 3, 2, 2), (3, 2), (2, 3, 4)):
        n = shape[1]
        case(f, "BatchNormalization", D(*shape), D(n), D(n), D(n), D(n, low=0.5), formula=batch_norm)
    case(f, "BatchNormalization", D(2, 3, 2), D(3), D(3), np.array([0.1, -0.2, 0.3]), np.array([1.5, 0.5, 2.5]), epsilon=0.01, formula=lambda *a: batch_norm(*a, epsilon=0.01))

    def standard(x, axes, epsilon=1e-5):
        return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)

    def layer_norm(axis):
        def evaluate(x, s, b=None):
            y = standard(x, tuple(range(axis % x.ndim, x.ndim))) * s
            return y if b is None else y + b

        return evaluate

    case(f, "LayerNormalization", D(2, 4), D(4), D(4), formula=layer_norm(-1))
    case(f, "LayerNormalization", D(2, 3, 4), D(4), formula=layer_norm(-1))
    case(f, "LayerNormalization", D(2, 3, 2), D(3, 2), D(3, 2), axis=1, formula=layer_norm(1))
    case(f, "LayerNormalization", D(2, 3, 4), D(1), D(3, 1), axis=-2, formula=layer_norm(-2))

    def rms(axis):
        return lambda x, s: x / np.sqrt((x * x).mean(tuple(range(axis % x.ndim, x.ndim)), keepdims=True) + 1e-5) * s

    case(f, "RMSNormalization", D(2, 4), D(4), formula=rms(-1))
    case(f, "RMSNormalization", D(2, 3, 2), D(3, 2), axis=1, formula=rms(1))

    def instance(x, s, b):
        c = lambda t: t.reshape(1, -1, *[1] * (x.ndim - 2))
        return standard(x, tuple(range(2, x.ndim))) * c(s) + c(b)

    case(f, "InstanceNormalization", D(2, 2, 2, 3), D(2), D(2), formula=instance)
    case(f, "InstanceNormalization", D(2, 3, 4), D(3), D(3), formula=instance)

    def group(groups):
        def evaluate(x, s, b):
            c = lambda t: t.reshape(1, -1, *[1] * (x.ndim - 2))
            return standard(x.reshape(x.shape[0], groups, -1), (2,)).reshape(x.shape) * c(s) + c(b)

        return evaluate

    case(f, "GroupNormalization", D(2, 4, 3), D(4), D(4), num_groups=2, formula=group(2))
    case(f, "GroupNormalization", D(1, 4, 2, 2), D(4), D(4), num_groups=4, formula=group(4))
    for p in (1, 2):
        norm = lambda x, p=p: x / np.sum(np.abs(x) ** p, axis=1, keepdims=True) ** (1 / p)
        case(f, "LpNormalization", D(2, 3, 2), axis=1, p=p, formula=norm)

    def local_response(size, alpha=1e-4, beta=0.75, bias=1.0):
        def evaluate(x):
            total = np.zeros_like(x)
            for k in range(x.shape[1]):
                total[:, k] = np.sum(x[:, max(0, k - (size - 1) // 2) : k + size // 2 + 1] ** 2, axis=1)
            return x / (bias + alpha / size * total) ** beta

        return evaluate

    for shape, attributes in (((2, 5, 2, 3), dict(size=3, alpha=0.5, beta=0.75, bias=2.0)), ((2, 3, 2, 2), dict(size=5, alpha=0.75, beta=1.25)), ((1, 6, 2, 1), dict(size=3, alpha=1.5)), ((1, 3, 2, 2), dict(size=1, alpha=0.5)), ((1, 2, 2, 2), dict(size=3))):
        case(f, "LRN", D(*shape), formula=local_response(**attributes), **attributes)
    for shape, axes in (((2, 3, 2, 3), None), ((2, 3, 4), [-1]), ((3, 4), [0, 1]), ((2, 3, 2, 2), [1, 2, 3])):
        over = tuple(axes or [0, 2, 3])
        mean_variance = lambda x, over=over: (x - x.mean(over, keepdims=True)) / np.sqrt(x.var(over, keepdims=True))
        case(f, "MeanVarianceNormalization", D(*shape), formula=mean_variance, **({"axes": axes} if axes else {}))


def reduction():
    f = "reduction"
    formulas = {
        "ReduceSum": np.sum,
        "ReduceMean": np.mean,
        "ReduceMax": np.max,
        "ReduceMin": np.min,
        "ReduceProd": np.prod,
        "ReduceL1": lambda x, axis, keepdims: np.sum(np.abs(x), axis=axis, keepdims=keepdims),
        "ReduceL2": lambda x, axis, keepdims: np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims)),
        "ReduceSumSquare": lambda x, axis, keepdims: np.sum(x * x, axis=axis, keepdims=keepdims),
        "ReduceLogSum": lambda x, axis, keepdims: np.log(np.sum(x, axis=axis, keepdims=keepdims)),
        "ReduceLogSumExp": lambda x, axis, keepdims: np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims)),
    }
    for op, formula in formulas.items():
        low = 0.2 if op == "ReduceLogSum" else -2
        for shape, axes, keep in (((2, 3), (1,), 1), ((2, 3), (-2,), 0), ((2, 3, 2), (0, 2), 0), ((2, 3, 2), (2, 0), 1), ((2, 3), None, 1), ((2, 3), None, 0), ((4,), (0,), 0)):
            inputs = [D(*shape, low=low)] + ([] if axes is None else [ints(*axes)])
            case(f, op, *inputs, keepdims=keep, formula=lambda x, *a, axes=axes, keep=keep: formula(x, axis=axes, keepdims=bool(keep)))
    case(f, "ReduceProd", D(2, 3, values=[1, 0, 2, 0, 0, 3]), ints(1), formula=lambda x, a: np.prod(x, axis=1, keepdims=True))
    case(f, "ReduceSum", D(2, 3), ints(), noop_with_empty_axes=1, formula=lambda x, a: x)
    case(f, "CumSum", D(2, 3), np.array(1, np.int64))
    case(f, "CumSum", D(2, 3), np.array(0, np.int64), reverse=1)
    case(f, "CumSum", D(2, 3), np.array(-1, np.int64), exclusive=1)
    case(f, "CumSum", D(4), np.array(0, np.int64), exclusive=1, reverse=1)
    case(f, "Range", D(values=0.3), np.array(2.9), D(values=0.7))

    def cumulative_product(axis, exclusive=0, reverse=0):
        def evaluate(x, _):
            x = np.flip(x, axis) if reverse else x
            y = np.cumprod(x, axis)
            if exclusive:
                y = np.concatenate([np.ones_like(np.take(y, [0], axis)), np.delete(y, -1, axis)], axis)
            return np.flip(y, axis) if reverse else y

        return evaluate

    for exclusive, reverse in itertools.product((0, 1), (0, 1)):
        how = dict(exclusive=exclusive, reverse=reverse)
        case(f, "CumProd", D(2, 3), np.array(1, np.int64), formula=cumulative_product(1, **how), **how)
        case(f, "CumProd", D(3, 2), np.array(-2, np.int64), formula=cumulative_product(0, **how), **how)
        case(f, "CumProd", D(3, 4, values=[1, 0, 2, 3, 0, 2, 0, 1, 1, 2, 0.5, 0]), np.array(1, np.int64), formula=cumulative_product(1, **how), **how)


def movement():
    f = "movement"
    case(f, "Reshape", D(2, 6), ints(3, 4))
    case(f, "ReverseSequence", D(4, 3, 2), ints(4, 2, 1), time_axis=0, batch_axis=1)
    case(f, "ReverseSequence", D(2, 3), ints(3, 2), time_axis=1, batch_axis=0)
    case(f, "Reshape", D(2, 6), ints(0, -1, 2))
    case(f, "Reshape", D(1), ints())
    case(f, "Flatten", D(2, 3, 2), axis=1)
    case(f, "Flatten", D(2, 3, 2), axis=0)
    case(f, "Squeeze", D(2, 1, 3, 1), ints(1, -1))
    case(f, "Squeeze", D(2, 1, 3))
    case(f, "Unsqueeze", D(2, 3), ints(0, -1))
    case(f, "Unsqueeze", D(), ints(0))
    case(f, "Transpose", D(2, 3, 4), perm=[2, 0, 1])
    case(f, "Transpose", D(2, 3))
    case(f, "Concat", D(2, 1), D(2, 3), D(2, 2), axis=1)
    case(f, "Concat", D(1, 2), D(3, 2), axis=-2)
    case(f, "Split", D(6, 2), outputs=2, axis=0, num_outputs=2)
    case(f, "Split", D(2, 6), ints(1, 2, 3), outputs=3, axis=1)
    case(f, "Slice", D(5, 4), ints(1, 0), ints(4, 3))
    case(f, "Slice", D(5, 4), ints(-3), ints(1000), ints(0))
    case(f, "Slice", D(5, 4), ints(0, 3), ints(5, -10), ints(0, 1), ints(2, -1))
    case(f, "Slice", D(5, 4), ints(1), ints(-1), ints(-1))
    case(f, "Slice", D(7), ints(5), ints(0), ints(0), ints(-2))
    case(f, "Pad", D(2, 3), ints(1, 0, 0, 2))
    case(f, "Pad", D(2, 3), ints(0, 1, 1, 0), D(values=0.5))
    case(f, "Pad", D(3, 4), ints(-1, 1, 0, -2), formula=lambda x, p: np.pad(x[1:, :-2], ((0, 0), (1, 0))))
    case(f, "Pad", D(2, 3), ints(1, 2), None, ints(1))
    case(f, "Pad", D(3, 4), ints(1, 2, 0, 1), mode="reflect")
    case(f, "Pad", D(3, 2), ints(1, 2, 0, 1), mode="edge")
    case(f, "Pad", D(3, 4), ints(1, 2, 0, 1), mode="wrap")
    case(f, "Tile", D(2, 3), ints(2, 1))
    case(f, "Tile", D(2, 3), ints(3, 2))
    case(f, "Trilu", D(3, 4), upper=0)
    case(f, "Trilu", D(2, 3, 3), np.array(1, np.int64), upper=1)
    case(f, "DepthToSpace", D(1, 8, 2, 3), blocksize=2)
    case(f, "DepthToSpace", D(2, 4, 2, 3), blocksize=2, mode="CRD")
    case(f, "SpaceToDepth", D(1, 2, 4, 2), blocksize=2)
    case(f, "DepthToSpace", D(1, 9, 1, 2), blocksize=3, mode="DCR")
    case(f, "Pad", D(4), ints(2, 3), mode="reflect")
    case(f, "Pad", D(2, 3), ints(2, 1), None, ints(-1), mode="edge")
    for shape, target, axes in (((3, 4), (5, 2), None), ((4, 5, 3), (3, 3, 4), None), ((4, 5, 2), (1, 6), [1, 0]), ((2, 3), (2, 3), None), ((3, 4), (6,), [-1])):
        case(f, "CenterCropPad", D(*shape), ints(*target), **({"axes": axes} if axes else {}))


def gather_elements(x, at, axis):
    y = np.zeros(at.shape, x.dtype)
    for index in np.ndindex(*at.shape):
        source = list(index)
        source[axis] = at[index]
        y[index] = x[tuple(source)]
    return y


def indexing():
    f = "indexing"
    case(f, "Gather", D(4, 3), ints(0, 2, 2))
    case(f, "Gather", D(4, 3), np.array([[0, -1], [2, 0]]))
    case(f, "Gather", D(3, 4, 2), np.array([[3, 0, 3]]), axis=1)
    case(f, "Gather", D(2, 4), ints(1, 3, 1), axis=-1)
    case(f, "Gather", D(3, 4, 2), np.array(-1), axis=1)
    case(f, "Gather", D(3, 2), ints(1))
    case(f, "GatherElements", D(3, 4), np.array([[0, 2, 0], [1, 1, 2]]), axis=0, formula=lambda x, at: gather_elements(x, at, 0))
    case(f, "GatherElements", D(3, 4), np.array([[0, -1, 0], [1, 1, 2], [3, 3, 3]]), axis=1, formula=lambda x, at: gather_elements(x, at, 1))
    case(f, "GatherND", D(3, 4), np.array([[0, 1], [2, 3], [0, 1]]))
    case(f, "GatherND", D(3, 2, 2), np.array([[0], [2], [0]]))
    case(f, "GatherND", D(2, 3, 2), np.array([[[0, 1], [2, 0]], [[1, 1], [1, 1]]]), batch_dims=1)
    for reduction in ("none", "add"):
        more = {} if reduction == "none" else {"reduction": reduction}
        case(f, "ScatterElements", D(3, 4), np.array([[0, 2, 1], [1, 0, 2]]), D(2, 3), axis=0, **more)
        case(f, "ScatterElements", D(2, 4), np.array([[3, 0], [1, -1]]), D(2, 2), axis=1, **more)
        case(f, "ScatterND", D(4, 2), np.array([[3], [0]]), D(2, 2), **more)
        case(f, "ScatterND", D(2, 3), np.array([[0, 1], [1, 2]]), D(2), **more)
    case(f, "ScatterElements", D(3, 2), np.array([[0, 0], [0, 0]]), D(2, 2), axis=0, reduction="add")
    case(f, "TopK", D(3, 5), ints(2), outputs=2, axis=1)
    case(f, "TopK", D(4, 2), ints(2), outputs=2, axis=0, largest=0)
    case(f, "OneHot", ints(0, 2, 1), np.array(3), D(2, values=[0.25, 1.5]))
    for reduction in ("mul", "max", "min"):
        case(f, "ScatterElements", D(3, 4), np.array([[0, 2, 1], [0, 0, 1]]), D(2, 3), axis=0, reduction=reduction)
        case(f, "ScatterElements", D(2, 4), np.array([[3, 0, 3], [1, -1, 1]]), D(2, 3), axis=1, reduction=reduction)
        case(f, "ScatterND", D(4, 2), np.array([[3], [0], [3]]), D(3, 2), reduction=reduction)
        case(f, "ScatterND", D(2, 3), np.array([[0, 1], [1, 2], [0, 1]]), D(3), reduction=reduction)
    zeros = D(4, values=[0, 1, 0, 2])
    case(f, "ScatterElements", D(3, values=[0.5, 0, 2]), ints(0, 0, 1, 2), zeros, axis=0, reduction="mul", formula=lambda x, at, u: np.array([x[0] * u[0] * u[1], x[1] * u[2], x[2] * u[3]]))
    case(f, "Compress", D(3, 4), np.array([True, False, True]), axis=0)
    case(f, "Compress", D(3, 4), np.array([False, True, True]), axis=-1)
    case(f, "Compress", D(2, 3), np.array([False, True, True, False, True]))
    case(f, "Compress", D(2, 3), np.array([False, False]), axis=0)
    case(f, "Unique", D(2, 3))
    case(f, "Unique", D(6, values=[2, 1, 3, 0.5, -1, 4]), sorted=0, formula=lambda x: x)
    case(f, "Unique", D(3, 2), axis=0)
    case(f, "Unique", D(3, 2), axis=1)

    def tensor_scatter(axis, circular):
        def evaluate(past, update, start=None):
            result = past.copy()
            for index in np.ndindex(*update.shape):
                at = list(index)
                at[axis] += 0 if start is None else start[index[0]]
                at[axis] %= past.shape[axis] if circular else past.shape[axis] + 1
                result[tuple(at)] = update[index]
            return result

        return evaluate

    for past, update, axis in (((2, 4, 3), (2, 2, 3), 1), ((2, 2, 5, 1), (2, 2, 3, 1), 2), ((2, 3, 4), (2, 3, 1), 2)):
        case(f, "TensorScatter", D(*past), D(*update), axis=axis, formula=tensor_scatter(axis, False))
        case(f, "TensorScatter", D(*past), D(*update), ints(1, 2), axis=axis, formula=tensor_scatter(axis, False))
        case(f, "TensorScatter", D(*past), D(*update), ints(1, 3), axis=axis, mode="circular", formula=tensor_scatter(axis, True))


def resize():
    f = "resize"
    for shape, scales in (((1, 2, 3, 4), (1, 1, 2, 2)), ((1, 1, 3, 4), (1, 1, 1.5, 0.75)), ((2, 1, 4, 2), (1, 1, 0.5, 3))):
        for mode in ("nearest", "linear", "cubic"):
            case(f, "Resize", D(*shape), None, np.array(scales, np.float32), mode=mode)
    case(f, "Resize", D(1, 1, 3, 4), None, np.array([1, 1, 2, 3], np.float32), mode="linear", coordinate_transformation_mode="align_corners")
    case(f, "Resize", D(1, 1, 3, 4), None, np.array([1, 1, 2, 2], np.float32), mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    case(f, "Resize", D(1, 1, 3, 4), None, None, ints(1, 1, 5, 6), mode="linear", coordinate_transformation_mode="pytorch_half_pixel")
    case(f, "Resize", D(1, 1, 3, 4), None, None, ints(6, 5), mode="linear", axes=[2, 3])
    case(f, "Resize", D(1, 2, 5), None, np.array([1, 1, 2], np.float32), mode="linear")
    for mode in ("nearest", "linear", "cubic"):
        for transformation in ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"):
            case(f, "Resize", D(1, 1, 4, 3), None, None, ints(1, 1, 7, 5), mode=mode, coordinate_transformation_mode=transformation)
        case(f, "Resize", D(1, 1, 5, 4), np.array([0, 0, 0.3, -0.1, 1, 1, 0.9, 1.2], np.float32), None, ints(1, 1, 4, 5), mode=mode, coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=0.7)
    for mode in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
        case(f, "Resize", D(1, 1, 3, 4), None, np.array([1, 1, 1.6, 0.7], np.float32), mode="nearest", nearest_mode=mode)
    case(f, "Resize", D(1, 1, 5, 4), None, np.array([1, 1, 1.3, 0.6], np.float32), mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1)
    for mode in ("linear", "cubic"):
        case(f, "Resize", D(1, 1, 6, 8), None, np.array([1, 1, 0.5, 0.375], np.float32), mode=mode, antialias=1)
    for policy in ("not_larger", "not_smaller"):
        case(f, "Resize", D(1, 1, 3, 4), None, None, ints(6, 12), mode="linear", axes=[2, 3], keep_aspect_ratio_policy=policy)


def image():
    f = "image"

    def affine_grid(align_corners):
        def evaluate(theta, size):
            along = [np.linspace(-1, 1, n) if align_corners else (np.arange(n) * 2 + 1) / n - 1 for n in size[2:]]
            points = np.stack([g.astype(np.float64) for g in np.meshgrid(*along, indexing="ij")][::-1] + [np.ones(size[2:])], -1)
            return np.einsum("...j,nij->n...i", points, theta)

        return evaluate

    for theta, size in (((2, 2, 3), (2, 1, 3, 4)), ((1, 2, 3), (1, 3, 4, 2)), ((1, 3, 4), (1, 1, 2, 3, 2))):
        for align_corners in (0, 1):
            case(f, "AffineGrid", D(*theta), ints(*size), align_corners=align_corners, formula=affine_grid(align_corners))

    def col2im(kernel, image, strides=None, pads=None, dilations=None):
        axes = len(kernel)
        strides, dilations, pads = strides or [1] * axes, dilations or [1] * axes, pads or [0] * 2 * axes

        def evaluate(x, *_):
            padded = [image[i] + pads[i] + pads[i + axes] for i in range(axes)]
            steps = [(padded[i] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in range(axes)]
            columns = x.reshape(x.shape[0], -1, *kernel, *steps)
            y = np.zeros((x.shape[0], columns.shape[1], *padded))
            for tap in np.ndindex(*kernel):
                window = tuple(slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, n, s in zip(tap, dilations, steps, strides))
                y[(slice(None), slice(None), *window)] += columns[(slice(None), slice(None), *tap)]
            return y[(slice(None), slice(None), *[slice(pads[i], padded[i] - pads[i + axes]) for i in range(axes)])]

        return evaluate

    for shape, size, kernel, attributes in (
        ((1, 4, 9), (4, 4), (2, 2), {}),
        ((2, 12, 6), (4, 5), (2, 3), dict(strides=[1, 2])),
        ((1, 12, 12), (4, 5), (2, 3), dict(pads=[0, 1, 0, 0], strides=[1, 1])),
        ((1, 4, 4), (5, 6), (2, 2), dict(dilations=[2, 3], strides=[2, 2])),
        ((2, 3, 4), (6,), (3,), {}),
        ((1, 8, 8), (3, 3, 3), (2, 2, 2), {}),
    ):
        case(f, "Col2Im", D(*shape), ints(*size), ints(*kernel), formula=col2im(kernel, size, **attributes), **attributes)


def spectral():
    f = "spectral"

    def dft(axis, length=None, inverse=0, onesided=0):
        def evaluate(x, *_):
            z = x[..., 0] + 1j * x[..., 1] if x.shape[-1] == 2 else x[..., 0]
            y = (np.fft.ifft if inverse else np.fft.fft)(z, length, axis)
            if onesided:
                y = np.take(y, range(y.shape[axis] // 2 + 1), axis)
            return np.stack([y.real, y.imag], -1)

        return evaluate

    for parts, inverse, onesided in ((1, 0, 0), (1, 0, 1), (2, 0, 0), (2, 1, 0)):
        how = dict(inverse=inverse, onesided=onesided)
        case(f, "DFT", D(2, 5, parts), formula=dft(1, **how), **how)
        case(f, "DFT", D(4, 3, parts), None, np.array(0), formula=dft(0, **how), **how)
        case(f, "DFT", D(2, 5, parts), np.array(8), formula=dft(1, 8, **how), **how)
        case(f, "DFT", D(1, 6, parts), np.array(4), np.array(-2), formula=dft(1, 4, **how), **how)

    def stft(points, onesided):
        def evaluate(signal, step, window=None, length=None):
            starts = range(0, signal.shape[1] - points + 1, int(step))
            frames = np.stack([signal[:, at : at + points, 0] for at in starts], 1)
            y = np.fft.fft(frames if window is None else frames * window, axis=-1)
            y = y[..., : points // 2 + 1] if onesided else y
            return np.stack([y.real, y.imag], -1)

        return evaluate

    for onesided in (0, 1):
        case(f, "STFT", D(2, 9, 1), np.array(2), D(4, low=0.2, high=1), np.array(4), onesided=onesided, formula=stft(4, onesided))
        case(f, "STFT", D(1, 8, 1), np.array(3), D(5, low=0.2, high=1), onesided=onesided, formula=stft(5, onesided))
        case(f, "STFT", D(1, 8, 1), np.array(3), None, np.array(4), onesided=onesided, formula=stft(4, onesided))


def mirrored(v, low, high):
    """A coordinate thrown back at the bounds until it is between them."""
    while not low <= v <= high:
        v = 2 * low - v if v < low else 2 * high - v
    return v


def neighbours(v):
    low = math.floor(v)
    return [(low, 1 - (v - low)), (low + 1, v - low)]


def cubic_neighbours(v, a=-0.75):
    low = math.floor(v)
    t = v - low
    near = lambda d: (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = lambda d: a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return [(low - 1, far(1 + t)), (low, near(t)), (low + 1, near(1 - t)), (low + 2, far(2 - t))]


def grid_sample(mode="linear", padding_mode="zeros", align_corners=0):
    def evaluate(x, grid):
        sizes = x.shape[2:]
        bounds = [(0, n - 1) if align_corners else (-0.5, n - 0.5) for n in sizes]
        y = np.zeros((*x.shape[:2], *grid.shape[1:-1]))
        for point in np.ndindex(*grid.shape[:-1]):
            at = [(g + 1) / 2 * (n - 1) if align_corners else ((g + 1) * n - 1) / 2 for g, n in zip(grid[point][::-1], sizes)]
            if mode == "nearest":
                at = [float(np.rint(v)) for v in at]
            if padding_mode == "reflection":
                at = [mirrored(v, *b) for v, b in zip(at, bounds)]
            one = {"nearest": lambda v: [(v, 1.0)], "linear": neighbours, "bilinear": neighbours}.get(mode, cubic_neighbours)
            for taps in itertools.product(*map(one, at)):
                place = [t[0] for t in taps]
                if padding_mode == "border":
                    place = [min(max(v, 0), n - 1) for v, n in zip(place, sizes)]
                elif padding_mode == "reflection":
                    place = [mirrored(v, *b) for v, b in zip(place, bounds)]
                if all(0 <= v <= n - 1 for v, n in zip(place, sizes)):
                    pixel = x[(point[0], slice(None), *[int(v) for v in place])]
                    y[(point[0], slice(None), *point[1:])] += math.prod(t[1] for t in taps) * pixel
        return y

    return evaluate


def deform_conv(strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), group=1, offset_group=1):
    def evaluate(x, w, offset, bias=None, mask=None):
        outputs, per_group, *kernel = w.shape
        height, width = offset.shape[2:]
        y = np.zeros((x.shape[0], outputs, height, width))
        for n, i, j in itertools.product(range(x.shape[0]), range(height), range(width)):
            for tap, (k, l) in enumerate(np.ndindex(*kernel)):
                for channel in range(x.shape[1]):
                    at = channel // (x.shape[1] // offset_group) * kernel[0] * kernel[1] + tap
                    v = i * strides[0] - pads[0] + k * dilations[0] + offset[n, 2 * at, i, j]
                    h = j * strides[1] - pads[1] + l * dilations[1] + offset[n, 2 * at + 1, i, j]
                    value = sum(a * b * x[n, channel, p, q] for (p, a), (q, b) in itertools.product(neighbours(v), neighbours(h)) if 0 <= p < x.shape[2] and 0 <= q < x.shape[3])
                    if mask is not None:
                        value = value * mask[n, at, i, j]
                    g = channel // per_group
                    rows = slice(g * outputs // group, (g + 1) * outputs // group)
                    y[n, rows, i, j] += w[rows, channel % per_group, k, l] * value
        return y if bias is None else y + bias[:, None, None]

    return evaluate


def roi_align(output_height, output_width, sampling_ratio, spatial_scale=1.0, mode="avg", coordinate_transformation_mode="half_pixel"):
    half = coordinate_transformation_mode == "half_pixel"

    def evaluate(x, regions, samples):
        y = np.zeros((len(regions), x.shape[1], output_height, output_width))
        for r, i, j in itertools.product(range(len(regions)), range(output_height), range(output_width)):
            x1, y1, x2, y2 = regions[r] * spatial_scale - (0.5 if half else 0)
            height, width = (y2 - y1, x2 - x1) if half else (max(y2 - y1, 1), max(x2 - x1, 1))
            values = []
            for a, b in itertools.product(range(sampling_ratio), range(sampling_ratio)):
                v = y1 + (i + (a + 0.5) / sampling_ratio) * height / output_height
                h = x1 + (j + (b + 0.5) / sampling_ratio) * width / output_width
                if not (-1 <= v <= x.shape[2] and -1 <= h <= x.shape[3]):
                    values.append([np.zeros(x.shape[1])])
                    continue
                v, h = (min(max(t, 0), n - 1) for t, n in ((v, x.shape[2]), (h, x.shape[3])))
                taps = itertools.product(neighbours(v), neighbours(h))
                values.append([s * t * x[samples[r], :, min(p, x.shape[2] - 1), min(q, x.shape[3] - 1)] for (p, s), (q, t) in taps])
            if mode == "avg":
                y[r, :, i, j] = sum(sum(v) for v in values) / len(values)
            else:
                y[r, :, i, j] = np.max([np.max(v, 0) for v in values], 0)
        return y

    return evaluate


def max_roi_pool(pooled_shape, spatial_scale=1.0):
    def evaluate(x, regions):
        y = np.zeros((len(regions), x.shape[1], *pooled_shape))
        for r, i, j in itertools.product(range(len(regions)), *map(range, pooled_shape)):
            sample = int(regions[r, 0])
            x1, y1, x2, y2 = (math.floor(v * spatial_scale + 0.5) for v in regions[r, 1:])

            def members(first, last, index, bins, n):
                size = max(last - first + 1, 1) / bins
                return slice(min(max(first + math.floor(index * size), 0), n), min(max(first + math.ceil((index + 1) * size), 0), n))

            piece = x[sample, :, members(y1, y2, i, pooled_shape[0], x.shape[2]), members(x1, x2, j, pooled_shape[1], x.shape[3])]
            y[r, :, i, j] = piece.reshape(x.shape[1], -1).max(1) if piece.size else 0
        return y

    return evaluate


def sampling():
    f = "sampling"
    for mode, padding, aligned in itertools.product(("nearest", "linear", "cubic"), ("zeros", "border", "reflection"), (0, 1)):
        how = dict(mode=mode, padding_mode=padding, align_corners=aligned)
        case(f, "GridSample", D(2, 2, 4, 3), D(2, 3, 2, 2, low=-1.6, high=1.6), formula=grid_sample(**how), **how)
        if mode != "cubic":
            case(f, "GridSample", D(1, 2, 3, 2, 4), D(1, 2, 1, 2, 3, low=-1.6, high=1.6), formula=grid_sample(**how), **how)
        named = how | {"mode": {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)}
        case(f, "GridSample", D(1, 2, 3, 4), D(1, 2, 3, 2, low=-1.6, high=1.6), domain="com.microsoft", formula=grid_sample(**named), **named)
    case(f, "GridSample", D(1, 1, 3, 3), D(1, 2, 2, 2, low=-0.9, high=0.9), formula=grid_sample())

    case(f, "DeformConv", D(1, 2, 4, 4), D(3, 2, 2, 2), D(1, 8, 3, 3, low=-1, high=1), D(3), formula=deform_conv())
    case(f, "DeformConv", D(2, 2, 3, 4), D(2, 2, 2, 2), D(2, 8, 2, 3, low=-1.5, high=1.5), formula=deform_conv())
    masked = dict(strides=[2, 1], pads=[1, 0, 1, 1], dilations=[1, 2], group=2, offset_group=2)
    case(f, "DeformConv", D(1, 4, 4, 4), D(4, 2, 2, 2), D(1, 16, 3, 3, low=-0.8, high=0.8), None, D(1, 8, 3, 3, low=0.1, high=1), formula=deform_conv(**masked), **masked)
    case(f, "DeformConv", D(1, 2, 3, 3), D(2, 1, 3, 3), D(1, 18, 3, 3, low=-0.7, high=0.7), D(2), D(1, 9, 3, 3, low=0.1, high=1), pads=[1, 1, 1, 1], group=2, formula=deform_conv(pads=[1, 1, 1, 1], group=2))

    regions = [[0.4, 0.7, 3.3, 4.6], [-2.3, 1.1, 2.7, 3.2], [2.2, 2.45, 6.9, 7.3]]
    for mode, transformation in itertools.product(("avg", "max"), ("half_pixel", "output_half_pixel")):
        how = dict(output_height=2, output_width=3, sampling_ratio=2, mode=mode, coordinate_transformation_mode=transformation)
        case(f, "RoiAlign", D(2, 2, 5, 5), D(3, 4, values=regions), ints(0, 1, 1), formula=roi_align(**how), **how)
        how |= dict(spatial_scale=0.5, sampling_ratio=1)
        case(f, "RoiAlign", D(1, 2, 5, 4), D(2, 4, values=[[1.1, 2.3, 7.7, 8.6], [0.3, 0.2, 5.4, 6.1]]), ints(0, 0), formula=roi_align(**how), **how)
    boxes = np.array([[0, 0, 0, 3, 4], [1, 1, 2, 1, 2], [0, 2, 1, 9, 3]], np.float64)
    case(f, "MaxRoiPool", D(2, 2, 5, 5), boxes, pooled_shape=[2, 2], formula=max_roi_pool((2, 2)))
    case(f, "MaxRoiPool", D(2, 2, 5, 6), boxes, pooled_shape=[3, 1], formula=max_roi_pool((3, 1)))
    case(f, "MaxRoiPool", D(2, 1, 3, 3), boxes * [1, 2, 2, 2, 2], pooled_shape=[2, 2], spatial_scale=0.5, formula=max_roi_pool((2, 2), 0.5))


def criterion():
    f = "criterion"

    def loss(softmax, reduction, ignore):
        def evaluate(x, target, weight=None):
            logarithms = x - np.log(np.sum(np.exp(x), 1, keepdims=True)) if softmax else x
            kept = np.ones(target.shape) if ignore is None else (target != ignore).astype(np.float64)
            at = np.where(kept > 0, target, 0)
            w = kept * (1 if weight is None else weight[at])
            y = -np.take_along_axis(logarithms, at[:, None], 1)[:, 0] * w
            y = {"none": lambda: y, "sum": lambda: y.sum(), "mean": lambda: y.sum() / w.sum()}[reduction]()
            return (y, logarithms) if softmax else y

        return evaluate

    for op, softmax in (("NegativeLogLikelihoodLoss", False), ("SoftmaxCrossEntropyLoss", True)):
        for shape, target in (((3, 4), [0, 3, 1]), ((2, 3, 2), [[0, 2], [1, 1]]), ((2, 3, 2, 1), [[[0], [2]], [[1], [0]]])):
            for reduction in ("none", "sum", "mean"):
                for weighted, ignore in ((False, None), (True, None), (False, 1), (True, 1)):
                    inputs = [D(*shape), np.array(target)] + ([D(shape[1], low=0.3, high=1.5)] if weighted else [])
                    how = dict(reduction=reduction) | ({} if ignore is None else {"ignore_index": ignore})
                    case(f, op, *inputs, outputs=1 + softmax, formula=loss(softmax, reduction, ignore), **how)
        case(f, op, D(2, 3), ints(-100, 2), ignore_index=-100, outputs=1 + softmax, formula=loss(softmax, "mean", -100))


def attend(q, k, v, scale=None, bias=0.0, softcap=0.0):
    """Attention of [batch, heads, sequence, size] arrays: the result, the products, the weights."""
    products = q @ np.swapaxes(k, -1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    score = (softcap * np.tanh(products / softcap) if softcap else products) + bias
    e = np.exp(score - score.max(-1, keepdims=True))
    weights = e / e.sum(-1, keepdims=True)
    return weights @ v, products, weights


def to_heads(x, heads):
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def from_heads(x):
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


def below(queries, keys, past=0):
    return np.arange(keys)[None] <= np.arange(queries)[:, None] + past


def rotated(x, cos, sin, interleaved):
    """[batch, heads, sequence, size] turned by [batch, sequence, half]."""
    half = cos.shape[-1]
    cos, sin = cos[:, None], sin[:, None]
    a, b = (x[..., 0 : 2 * half : 2], x[..., 1 : 2 * half : 2]) if interleaved else (x[..., :half], x[..., half : 2 * half])
    real, imaginary = a * cos - b * sin, a * sin + b * cos
    turned = np.stack([real, imaginary], -1).reshape(*x.shape[:3], 2 * half) if interleaved else np.concatenate([real, imaginary], -1)
    return np.concatenate([turned, x[..., 2 * half :]], -1)


def attention():
    f = "attention"

    def standard(outputs=1, q_heads=None, kv_heads=None, causal=False, mode=0, scale=None, softcap=0.0):
        def evaluate(q, k, v, mask=None, past_k=None, past_v=None, lengths=None):
            joined = q.ndim == 3
            if joined:
                q, k, v = to_heads(q, q_heads), to_heads(k, kv_heads), to_heads(v, kv_heads)
            past = 0 if past_k is None else past_k.shape[2]
            k = k if past_k is None else np.concatenate([past_k, k], 2)
            v = v if past_v is None else np.concatenate([past_v, v], 2)
            bias = 0.0
            if mask is not None:
                bias = np.where(mask, 0.0, -np.inf) if mask.dtype == bool else mask
            if causal:
                bias = bias + np.where(below(q.shape[2], k.shape[2], past), 0.0, -np.inf)
            if lengths is not None:
                bias = bias + np.where(np.arange(k.shape[2]) < lengths[:, None, None, None], 0.0, -np.inf)
            times = q.shape[1] // k.shape[1]
            y, products, weights = attend(q, np.repeat(k, times, 1), np.repeat(v, times, 1), scale, bias, softcap)
            return (from_heads(y) if joined else y, k, v, weights if mode == 3 else products)[:outputs]

        return evaluate

    q, k, v = (2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 2)
    case(f, "Attention", D(*q), D(*k), D(*v), formula=standard())
    case(f, "Attention", D(*q), D(*k), D(*v), scale=0.75, softcap=1.5, formula=standard(scale=0.75, softcap=1.5))
    case(f, "Attention", D(*q), D(*k), D(*v), is_causal=1, formula=standard(causal=True))
    case(f, "Attention", D(*q), D(*k), D(*v), D(3, 5), formula=standard())
    case(f, "Attention", D(*q), D(*k), D(*v), D(2, 1, 3, 5), formula=standard())
    pairs = np.array([[1, 1, 0, 0, 1], [0, 1, 0, 1, 0], [1, 0, 0, 0, 0]], bool)
    case(f, "Attention", D(*q), D(*k), D(*v), pairs, formula=standard())
    case(f, "Attention", D(2, 4, 3, 2), D(2, 2, 3, 2), D(2, 2, 3, 2), formula=standard())
    case(f, "Attention", D(1, 2, 3, 4), D(1, 2, 2, 4), D(1, 2, 2, 3), None, D(1, 2, 3, 4), D(1, 2, 3, 3), outputs=3, is_causal=1, formula=standard(3, causal=True))
    case(f, "Attention", D(2, 3, 8), D(2, 4, 4), D(2, 4, 6), q_num_heads=4, kv_num_heads=2, formula=standard(q_heads=4, kv_heads=2))
    case(f, "Attention", D(2, 3, 4), D(2, 3, 4), D(2, 3, 4), q_num_heads=1, kv_num_heads=1, is_causal=1, formula=standard(q_heads=1, kv_heads=1, causal=True))
    for mode in (0, 3):
        case(f, "Attention", D(1, 1, 2, 3), D(1, 1, 4, 3), D(1, 1, 4, 3), outputs=4, qk_matmul_output_mode=mode, formula=standard(4, mode=mode))
    case(f, "Attention", D(*q), D(*k), D(*v), None, None, None, ints(3, 5), formula=standard())

    def rotary(heads=None, interleaved=0):
        def evaluate(x, cos, sin, at=None):
            cos, sin = (cos, sin) if at is None else (cos[at], sin[at])
            return rotated(x, cos, sin, interleaved) if x.ndim == 4 else from_heads(rotated(to_heads(x, heads), cos, sin, interleaved))

        return evaluate

    positions = np.array([[0, 1, 4], [3, 2, 2]])
    for interleaved in (0, 1):
        how = dict(interleaved=interleaved)
        case(f, "RotaryEmbedding", D(2, 2, 3, 4), D(2, 3, 2), D(2, 3, 2), formula=rotary(**how), **how)
        case(f, "RotaryEmbedding", D(2, 2, 3, 4), D(5, 2), D(5, 2), positions, formula=rotary(**how), **how)
        case(f, "RotaryEmbedding", D(2, 3, 8), D(5, 2), D(5, 2), positions, num_heads=2, formula=rotary(heads=2, **how), **how)
        case(f, "RotaryEmbedding", D(2, 2, 3, 6), D(5, 2), D(5, 2), positions, rotary_embedding_dim=4, formula=rotary(**how), **how)

    own = dict(domain="com.microsoft")
    for interleaved in (0, 1):
        how = dict(interleaved=interleaved)
        formula = lambda heads=None, how=how: lambda x, at, cos, sin: rotary(heads, **how)(x, cos, sin, at if at.ndim == 2 else at[0] + np.arange(3)[None].repeat(2, 0))
        case(f, "RotaryEmbedding", D(2, 3, 8), positions, D(5, 2), D(5, 2), formula=formula(2), **how, **own)
        case(f, "RotaryEmbedding", D(2, 3, 8), ints(1), D(5, 2), D(5, 2), formula=formula(2), **how, **own)
        case(f, "RotaryEmbedding", D(2, 2, 3, 4), positions, D(5, 2), D(5, 2), formula=formula(), **how, **own)
        case(f, "RotaryEmbedding", D(2, 3, 12), positions, D(5, 2), D(5, 2), num_heads=2, rotary_embedding_dim=4, formula=formula(2), **how, **own)

    def masked(mask, keys, batch, filtered=-10000.0):
        if mask is None:
            return 0.0
        if mask.ndim == 1:
            mask = np.arange(keys)[None] < mask[:, None]
        return np.where(mask.reshape(batch, 1, -1, keys) > 0, 0.0, filtered)

    def projected(heads, sizes=None, causal=False, scale=None, outputs=1, filtered=-10000.0):
        def evaluate(x, w, b, mask=None, past=None, bias=None):
            qkv = x @ w + b
            widths = sizes or [w.shape[1] // 3] * 3
            q, k, v = (to_heads(part, heads) for part in np.split(qkv, np.cumsum(widths)[:2], 2))
            length = 0
            if past is not None:
                length = past.shape[3]
                k, v = np.concatenate([past[0], k], 2), np.concatenate([past[1], v], 2)
            added = masked(mask, k.shape[2], x.shape[0], filtered) + (0.0 if bias is None else bias)
            if causal:
                added = added + np.where(below(q.shape[2], k.shape[2], length), 0.0, -1e30)
            y = from_heads(attend(q, k, v, scale, added)[0])
            return y if outputs == 1 else (y, np.stack([k, v]))

        return evaluate

    x, w, b = (2, 3, 4), (4, 12), (12,)
    raw = ints(1, 1, 0, 0, 1, 1, dtype=np.int32).reshape(2, 3)
    case(f, "Attention", D(*x), D(*w), D(*b), num_heads=2, formula=projected(2), **own)
    case(f, "Attention", D(*x), D(*w), D(*b), num_heads=2, unidirectional=1, formula=projected(2, causal=True), **own)
    case(f, "Attention", D(*x), D(*w), D(*b), raw, num_heads=2, formula=projected(2), **own)
    case(f, "Attention", D(*x), D(*w), D(*b), raw, num_heads=2, mask_filter_value=-1.5, scale=0.3, formula=projected(2, scale=0.3, filtered=-1.5), **own)
    case(f, "Attention", D(*x), D(*w), D(*b), ints(2, 3, dtype=np.int32), num_heads=1, formula=projected(1), **own)
    case(f, "Attention", D(*x), D(*w), D(*b), np.stack([raw, raw[::-1], raw], 1), num_heads=2, formula=projected(2), **own)
    case(f, "Attention", D(*x), D(4, 10), D(10), num_heads=2, qkv_hidden_sizes=[4, 4, 2], formula=projected(2, [4, 4, 2]), **own)
    case(f, "Attention", D(*x), D(*w), D(*b), None, None, D(2, 2, 3, 3), num_heads=2, formula=projected(2), **own)
    case(f, "Attention", D(*x), D(*w), D(*b), None, D(2, 2, 2, 2, 2), num_heads=2, unidirectional=1, outputs=2, formula=projected(2, causal=True, outputs=2), **own)

    def multi_head(heads, causal=False, scale=None, outputs=1):
        def evaluate(q, k, v, b=None, mask=None, bias=None, past_k=None, past_v=None):
            if b is not None:
                width = q.shape[2]
                q = q + b[:width]
                k, v = (k + b[width : 2 * width], v + b[2 * width :]) if k.ndim == 3 else (k, v)
            q, k, v = (to_heads(t, heads) if t.ndim == 3 else t for t in (q, k, v))
            length = 0
            if past_k is not None:
                length = past_k.shape[2]
                k, v = np.concatenate([past_k, k], 2), np.concatenate([past_v, v], 2)
            added = masked(mask, k.shape[2], q.shape[0]) + (0.0 if bias is None else bias)
            if causal:
                added = added + np.where(below(q.shape[2], k.shape[2], length), 0.0, -1e30)
            return (from_heads(attend(q, k, v, scale, added)[0]), k, v)[:outputs]

        return evaluate

    q, k, v = (2, 3, 4), (2, 5, 4), (2, 5, 6)
    keys = ints(1, 1, 0, 1, 0, 0, 1, 1, 1, 1, dtype=np.int32).reshape(2, 5)
    case(f, "MultiHeadAttention", D(*q), D(*k), D(*v), num_heads=2, formula=multi_head(2), **own)
    case(f, "MultiHeadAttention", D(*q), D(*k), D(*k), D(12), num_heads=2, scale=0.4, formula=multi_head(2, scale=0.4), **own)
    case(f, "MultiHeadAttention", D(*q), D(*k), D(*v), None, keys, num_heads=1, formula=multi_head(1), **own)
    case(f, "MultiHeadAttention", D(*q), D(*k), D(*v), None, None, D(2, 2, 3, 5), num_heads=2, formula=multi_head(2), **own)
    case(f, "MultiHeadAttention", D(*q), D(*q), D(*q), num_heads=2, unidirectional=1, formula=multi_head(2, causal=True), **own)
    case(f, "MultiHeadAttention", D(*q), D(2, 2, 5, 2), D(2, 2, 5, 2), num_heads=2, formula=multi_head(2), **own)
    case(f, "MultiHeadAttention", D(1, 2, 4), D(1, 2, 4), D(1, 2, 4), None, None, None, D(1, 2, 3, 2), D(1, 2, 3, 2), num_heads=2, outputs=3, formula=multi_head(2, outputs=3), **own)


def contributed():
    f = "contributed"
    own = dict(domain="com.microsoft")
    gelu = lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2)))
    tanh_gelu = lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    for shape in ((2, 5), (3,), (2, 1, 3)):
        n = shape[-1]
        case(f, "Gelu", D(*shape), formula=gelu, **own)
        case(f, "BiasGelu", D(*shape), D(n), formula=lambda x, b: gelu(x + b), **own)
        case(f, "FastGelu", D(*shape), formula=tanh_gelu, **own)
        case(f, "FastGelu", D(*shape), D(n), formula=lambda x, b: tanh_gelu(x + b), **own)
        case(f, "QuickGelu", D(*shape), formula=lambda x: x * sigmoid(1.702 * x), **own)
        case(f, "QuickGelu", D(*shape), alpha=0.75, formula=lambda x: x * sigmoid(0.75 * x), **own)
        case(f, "ScaledSiLU", D(*shape), alpha=0.75, formula=lambda x: 0.75 * x * sigmoid(0.75 * x), **own)
        case(f, "ScaledSiLU", D(*shape), D(values=0.6), formula=lambda x, s: s * x * sigmoid(s * x), **own)
        case(f, "GatedAdd", D(*shape), D(*shape), D(*shape[:-1], 1), formula=lambda x, y, g: x + y * g, **own)

    def product(alpha=1.0, transA=0, transB=0, transBatchA=0, transBatchB=0):
        def side(x, batch, turned):
            x = np.moveaxis(x, 0, -2) if batch and x.ndim > 2 else x
            return np.swapaxes(x, -1, -2) if turned else x

        return lambda a, b: alpha * (side(a, transBatchA, transA) @ side(b, transBatchB, transB))

    for ta, tb in itertools.product((0, 1), (0, 1)):
        how = dict(transA=ta, transB=tb, alpha=0.75)
        for batch in ((), (2,), (2, 1)):
            a, b = ((2, 3), (3, 2))[ta], ((3, 4), (4, 3))[tb]
            case(f, "FusedMatMul", D(*batch, *a), D(*batch, *b), formula=product(**how), **how, **own)
        case(f, "FusedMatMul", D(*((2, 2, 3), (3, 2, 2))[ta]), D(*((2, 3, 4), (2, 4, 3))[tb]), transBatchA=1, formula=product(transBatchA=1, **how), **how, **own)
        case(f, "FusedMatMul", D(2, *((2, 3), (3, 2))[ta]), D(*((3, 2, 4), (4, 2, 3))[tb]), transBatchB=1, formula=product(transBatchB=1, **how), **how, **own)
        case(f, "TransposeMatMul", D(2, *((2, 3), (3, 2))[ta]), D(2, *((3, 4), (4, 3))[tb]), formula=product(**how), **how, **own)

    leaky = lambda slope: lambda x: np.where(x > 0, x, slope * x)
    activations = {"Relu": lambda x: np.maximum(x, 0), "Tanh": np.tanh, "Sigmoid": sigmoid}
    for name, activation in (activations | {"Softplus": lambda x: np.log1p(np.exp(x))}).items():
        how = dict(activation=name)
        case(f, "FusedGemm", D(2, 3), D(3, 4), D(4), formula=lambda a, b, c, g=activation: g(a @ b + c), **how, **own)
        case(f, "FusedGemm", D(3, 2), D(3, 4), D(2, 1), transA=1, alpha=0.5, beta=1.5, formula=lambda a, b, c, g=activation: g(0.5 * (a.T @ b) + 1.5 * c), **how, **own)
    case(f, "FusedGemm", D(2, 3), D(3, 4), activation="LeakyRelu", activation_alpha=0.25, formula=lambda a, b: leaky(0.25)(a @ b), **own)
    case(f, "FusedGemm", D(2, 3), D(3, 4), activation="Elu", activation_alpha=0.75, formula=lambda a, b: np.where(a @ b > 0, a @ b, 0.75 * (np.exp(a @ b) - 1)), **own)
    case(f, "FusedGemm", D(2, 3), D(3, 4), activation="HardSigmoid", activation_alpha=0.125, activation_beta=0.5, formula=lambda a, b: np.clip(0.125 * (a @ b) + 0.5, 0, 1), **own)

    for name, activation in (activations | {"HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1)}).items():
        case(f, "FusedConv", D(1, 2, 4, 4), D(3, 2, 3, 3), D(3), activation=name, pads=[1, 1, 1, 1], formula=lambda x, w, b, g=activation: g(conv_numpy(x, w, b, pads=[1, 1, 1, 1])), **own)
    case(f, "FusedConv", D(1, 2, 4, 4), D(3, 2, 3, 3), activation="Clip", activation_params=[-1.5, 2.25], formula=lambda x, w: np.clip(conv_numpy(x, w), -1.5, 2.25), **own)
    case(f, "FusedConv", D(1, 2, 4, 4), D(2, 2, 3, 3), activation="HardSigmoid", activation_params=[0.125, 0.5], formula=lambda x, w: np.clip(0.125 * conv_numpy(x, w) + 0.5, 0, 1), **own)
    case(f, "FusedConv", D(1, 2, 5, 4), D(2, 1, 2, 2), D(2), D(1, 2, 2, 3), activation="Relu", group=2, strides=[2, 1], formula=lambda x, w, b, z: np.maximum(conv_numpy(x, w, b, group=2, strides=[2, 1]) + z, 0), **own)

    def layer(x, scale, bias=0.0, epsilon=1e-12):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * scale + bias

    def rms(x, scale, epsilon=1e-12):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * scale

    x = (2, 3, 4)
    for branch in ((2, 3, 4), (3, 4), (1, 3, 4)):
        case(f, "SkipLayerNormalization", D(*x), D(*branch), D(4), D(4), formula=lambda x, s, g, b: layer(x + s, g, b), **own)
        case(f, "SkipSimplifiedLayerNormalization", D(*x), D(*branch), D(4), formula=lambda x, s, g: rms(x + s, g), **own)
    def with_sum(normalise):
        def evaluate(x, skip, gamma, *more):
            return normalise(x + skip + more[-1], gamma, *more[:-1])

        return evaluate

    case(f, "SkipLayerNormalization", D(*x), D(*x), D(4), D(4), D(4), epsilon=0.125, formula=with_sum(lambda s, g, b: layer(s, g, b, 0.125)), **own)
    case(f, "SkipLayerNormalization", D(6, 4), D(6, 4), D(4), None, formula=lambda x, s, g, b: layer(x + s, g), **own)
    case(f, "SkipSimplifiedLayerNormalization", D(*x), D(*x), D(4), D(4), epsilon=0.125, formula=with_sum(lambda s, g: rms(s, g, 0.125)), **own)
    case(f, "SimplifiedLayerNormalization", D(*x), D(4), formula=lambda x, s: rms(x, s, 1e-5))
    case(f, "SimplifiedLayerNormalization", D(2, 4), D(4), epsilon=0.125, axis=-1, formula=lambda x, s: rms(x, s, 0.125))
    for how in ("silu", "sigmoid"):
        gate = lambda z, how=how: z * sigmoid(z) if how == "silu" else sigmoid(z)
        case(f, "GatedRMSNorm", D(2, 3, 4), D(4), D(2, 3, 4), activation=how, formula=lambda x, s, z, gate=gate: rms(x, s, 1e-5) * gate(z), **own)
        case(f, "GatedRMSNorm", D(2, 6), D(3), D(2, 6), activation=how, formula=lambda x, s, z, gate=gate: rms(x.reshape(2, 2, 3), s, 1e-5).reshape(2, 6) * gate(z), **own)

    case(f, "Trilu", D(3, 4), upper=0, formula=np.tril, **own)
    case(f, "Trilu", D(2, 3, 3), np.array(1, np.int64), upper=1, formula=np.triu, **own)
    case(f, "GatherND", D(3, 4), np.array([[0, 1], [2, 3], [0, 1]]), formula=lambda x, at: x[tuple(at.T)], **own)
    case(f, "Pad", D(2, 3), ints(0, 1, 1, 0), D(values=0.5), formula=lambda x, p, v: np.pad(x, ((0, 1), (1, 0)), constant_values=v), **own)
    case(f, "Pad", D(3, 4), ints(1, 2, 0, 1), mode="reflect", formula=lambda x, p: np.pad(x, ((1, 0), (2, 1)), mode="reflect"), **own)
    case(f, "ExpandDims", D(2, 3), ints(1, dtype=np.int32).reshape(()), formula=lambda x, a: x[:, None], **own)
    case(f, "ExpandDims", D(2, 3), ints(-1, dtype=np.int32).reshape(()), formula=lambda x, a: x[..., None], **own)
    squares = lambda a, b: ((a[:, None] - b[None]) ** 2).sum(2)
    case(f, "CDist", D(2, 3), D(4, 3), metric="sqeuclidean", formula=squares, **own)
    case(f, "CDist", D(2, 3), D(4, 3), metric="euclidean", formula=lambda a, b: np.sqrt(squares(a, b)), **own)

    words = ints(0, 2, 1, 1, 0, 3, dtype=np.int32).reshape(2, 3)
    segments = ints(0, 1, 1, 0, 0, 1, dtype=np.int32).reshape(2, 3)
    case(f, "EmbedLayerNormalization", words, segments, D(4, 5), D(3, 5), D(2, 5), D(5), D(5), outputs=2, formula=lambda i, s, w, p, t, g, b: (layer(w[i] + p[:3] + t[s], g, b), np.zeros(2, np.int32)), **own)
    case(f, "EmbedLayerNormalization", words, None, D(4, 5), D(6, 5), None, D(5), D(5), ints(1, 1, 0, 1, 1, 1, dtype=np.int32).reshape(2, 3), outputs=2, formula=lambda i, s, w, p, t, g, b, m: (layer(w[i] + p[:3], g, b), np.array([2, 3], np.int32)), **own)


def batch_norm_steps():
    """Three steps of descent with momentum on a network with two batch normalisations, in float64."""
    rng = np.random.default_rng(7)
    single = lambda *shape, low=-1.0, high=1.0: rng.uniform(low, high, shape).astype(np.float32).astype(np.float64)
    weights = {"w1": single(3, 2, 2), "b1": single(3), "s1": single(3, low=0.5), "t1": single(3), "w2": single(9, 4), "b2": single(4)}
    weights |= {"s2": single(4, low=0.5), "t2": single(4), "w3": single(4, 2), "b3": single(2)}
    running = {"m1": single(3), "v1": single(3, low=0.5, high=2), "m2": single(4), "v2": single(4, low=0.5, high=2)}
    initial = {name: value.copy() for name, value in (weights | running).items()}
    x, target = single(12, 2, 4), single(12, 2)
    epsilon, momentums = {"1": float(np.float32(1e-3)), "2": float(np.float32(1e-5))}, {"1": float(np.float32(0.8)), "2": float(np.float32(0.9))}
    sigmoid = lambda z: 1 / (1 + np.exp(-z))

    def forward(w, x):
        """The loss of the batch, and the batch's mean and variance at each normalisation."""
        seen = {}

        def normalised(z, k):
            axes = tuple(a for a in range(z.ndim) if a != 1)
            c = lambda t: t.reshape(1, -1, *[1] * (z.ndim - 2))
            seen[k] = (z.mean(axes), z.var(axes))
            return (z - c(seen[k][0])) / np.sqrt(c(seen[k][1]) + epsilon[k]) * c(w[f"s{k}"]) + c(w[f"t{k}"])

        columns = np.stack([x[:, :, i : i + 2] for i in range(3)], axis=-1)
        hidden = np.einsum("oik,nikp->nop", w["w1"], columns) + w["b1"][:, None]
        hidden = sigmoid(normalised(hidden, "1")).reshape(len(x), -1)
        hidden = sigmoid(normalised(hidden @ w["w2"] + w["b2"], "2"))
        return hidden @ w["w3"] + w["b3"], seen

    velocity = {name: np.zeros_like(value) for name, value in weights.items()}
    for start in range(0, 12, 4):
        rows = slice(start, start + 4)
        loss = lambda w: float(np.mean((forward(w, x[rows])[0] - target[rows]) ** 2))
        _, seen = forward(weights, x[rows])
        gradients = {}
        for name, value in weights.items():
            gradients[name] = np.zeros_like(value)
            for index in np.ndindex(*value.shape):
                moved = lambda h: loss({**weights, name: value + h * (np.indices(value.shape) == np.reshape(index, (-1,) + (1,) * value.ndim)).all(0)})
                coarse, fine = ((moved(h) - moved(-h)) / (2 * h) for h in (1e-3, 5e-4))
                gradients[name][index] = (4 * fine - coarse) / 3
        for k, (mean, variance) in seen.items():
            for name, batch in ((f"m{k}", mean), (f"v{k}", variance)):
                running[name] = running[name] * momentums[k] + batch * (1 - momentums[k])
        for name in weights:
            velocity[name] = 0.9 * velocity[name] + gradients[name]
            weights[name] = weights[name] - 0.1 * velocity[name]

    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c"]),
        node("BatchNormalization", ["c", "s1", "t1", "m1", "v1"], ["n1"], epsilon=1e-3, momentum=0.8),
        node("Sigmoid", ["n1"], ["a1"]),
        node("Flatten", ["a1"], ["f"]),
        node("Gemm", ["f", "w2", "b2"], ["h"]),
        node("BatchNormalization", ["h", "s2", "t2", "m2", "v2"], ["n2"]),
        node("Sigmoid", ["n2"], ["a2"]),
        node("Gemm", ["a2", "w3", "b3"], ["y"]),
    ]
    stored = dict(initial) | {"data/x": x, "data/target": target}
    stored |= {f"after/{name}": value for name, value in (weights | running).items()}
    initializers = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in stored.items()]
    info = lambda name, *row: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *row])
    graph = helper.make_graph(nodes, "batch_norm_steps", [info("x", 2, 4)], [info("y", 2)], initializers)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    (FOLDER / "batch_norm_steps.onnx").write_bytes(model.SerializeToString(deterministic=True))
    print("batch_norm_steps: 3 steps")


for family in (elementwise, activation, linear, matrix, convolution, pooling, normalization, reduction, movement, indexing, resize, image, spectral, sampling, criterion, attention, contributed):
    family()
FOLDER.mkdir(parents=True, exist_ok=True)
for name, cases in families.items():
    data = b"".join(struct.pack("<I", len(model)) + model for _, model in cases)
    (FOLDER / f"{name}.cases").write_bytes(data)
    print(f"{name}: {len(cases)} cases, {len(data)} bytes")
batch_norm_steps()
