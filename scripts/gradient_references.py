#!/usr/bin/env python3
"""Write fixtures/gradients/*.cases: reference gradients for the rules of crates/autodiff.

Each case is one small model. It is evaluated in float64 by onnx's reference evaluator, or by a NumPy formula where that
evaluator lacks the operator or computes it in float32, and differentiated by central differences of sum(w * y).

A file is a sequence of cases, each a little-endian uint32 length and an ONNX model of that many bytes. Besides the
model's own initializers it holds `value/<input>`, `weight/<output>` and `gradient/<input>` (float32).

batch_norm_steps.onnx is a network that trains by the statistics of its batches: beside its own initializers it holds
`data/x` and `data/target`, and `after/<name>`, what every initializer is after one pass over them in batches of 4.

Needs: pip install numpy onnx==1.22.0. Run from the repository's root; the result is the same in every run.
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


def case(family, op, *inputs, outputs=1, formula=None, graph_inputs=(), note="", **attributes):
    """Add a case. Inputs are D (differentiated), arrays (constants) or None (left out)."""
    cases = families.setdefault(family, [])
    seed = zlib.crc32(f"{op}/{len([c for c in cases if c[0] == op])}".encode())
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
    node = helper.make_node(op, names, out, name=f"{op.lower()}_node", **attributes)

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
        return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", OPSET)])

    if formula is None:
        evaluator = ReferenceEvaluator(model(TensorProto.DOUBLE))
        evaluate = lambda feeds: evaluator.run(None, feeds)
    else:
        evaluate = lambda feeds: [formula(*[feeds.get(n, constants.get(n)) for n in names])]
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
    cases.append((op, result.SerializeToString()))


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
    # Sizes for which the gradient of the weights takes other forms: by tap, joined columns, columns in groups.
    conv((1, 16, 16, 17), (1, 16, 2, 1), pads=[0, 0, 1, 0])
    conv((2, 2, 2, 3), (12, 2, 2, 3), pads=[1, 1, 0, 1])
    conv((2, 3, 2, 2), (9, 3, 1, 1))
    conv((1, 2, 21, 20), (2, 1, 2, 2), group=2, pads=[1, 0, 0, 1])
    conv((1, 1, 12, 12), (2, 1, 3, 3), pads=[1, 1, 1, 1])
    conv((1, 2, 12, 10), (2, 1, 2, 3), group=2, pads=[1, 1, 0, 1])
    conv((1, 2, 21, 11), (2, 2, 2, 2), strides=[2, 1], pads=[1, 0, 0, 0])
    conv((1, 1, 14, 13), (1, 1, 3, 2), dilations=[2, 3], pads=[2, 1, 1, 2])
    conv((1, 4, 11, 10), (2, 2, 1, 2), group=2)
    # Depthwise with long rows, and with dilations and steps that leave out the end.
    conv((2, 2, 3, 30), (2, 1, 2, 2), group=2, pads=[1, 0, 0, 1])
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


def pool_numpy(x, how, kernel_shape, strides=None, pads=None, dilations=None, ceil_mode=0, count_include_pad=0):
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
        how = "max" if op == "MaxPool" else "mean"
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


for family in (elementwise, activation, linear, convolution, pooling, normalization, reduction, movement, indexing, resize):
    family()
FOLDER.mkdir(parents=True, exist_ok=True)
for name, cases in families.items():
    data = b"".join(struct.pack("<I", len(model)) + model for _, model in cases)
    (FOLDER / f"{name}.cases").write_bytes(data)
    print(f"{name}: {len(cases)} cases, {len(data)} bytes")
batch_norm_steps()
