#!/usr/bin/env python3
"""Write fixtures/backend/*.cases.z: the node models of onnx's backend tests, with reference gradients.

Every model keeps its name and carries beside its own initializers `value/<input>` (what it is run on) and, where its
gradients are known, `reference/<input>`: the derivative of the sum of w * y over the float outputs, for each element of
the input, or, where it has more than ELEMENTS, along DIRECTIONS directions. `total/sum` is that sum itself. Weights and
directions are not stored: they are `numbers(size, stream)`, which crates/autodiff/tests/backend computes as well.

References are central differences in float64. The first of these that runs the operator and agrees with the outputs that
onnx stores makes them: onnx's reference evaluator in float64, ONNX Runtime in float64, ONNX Runtime in float32. Where an
input lies on a kink of the function (a zero of Abs, a tie of Max), that input is moved a little, by seeded numbers.

Metadata of a model: `method`, how its references were made ("float64" or "float32"), `moved`, the inputs that were moved,
`unweighted`, the float outputs that are left out of the sum because they are not finite, `none`, why there is no
reference at all, and `none/<input>`, why there is none for that input.

A file is a zlib stream; in it cases follow each other, each a little-endian uint32 length and a model of that many bytes.

Needs: pip install numpy onnx==1.22.0 onnxruntime==1.31.1. Run from the repository's root; the result is the same in every
run on one machine.
"""

import collections
import functools
import pathlib
import struct
import warnings
import zlib

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.reference import ReferenceEvaluator

FOLDER = pathlib.Path("fixtures/backend")
ELEMENTS = 64
DIRECTIONS = 4
WEIGHT_STREAM = 1000
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
# Operators that onnx's evaluator gets wrong near by, though not on the test's own values: LpNormalization of odd order sums
# x instead of |x|, OneHot does not cut off the fraction of an index.
MISREAD = ("LpNormalization", "OneHot")


class Unsettled(Exception):
    """The function is not differentiable there, as far as differences can tell."""


def numbers(size, stream):
    """Reproducible numbers in -1..1, exact in float32."""
    with np.errstate(over="ignore"):
        x = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x += np.uint64(stream) * np.uint64(0xD1B54A32D192ED03)
        x ^= x >> np.uint64(31)
        x *= np.uint64(0xBF58476D1CE4E5B9)
        x ^= x >> np.uint64(29)
    return (x >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1.0


def is_float(array):
    return isinstance(array, np.ndarray) and helper.np_dtype_to_tensor_dtype(array.dtype) in FLOATS


def double(code):
    return TensorProto.DOUBLE if code in FLOATS else code


def to_double(model):
    """The model with every float a float64; conversions between floats become the identity."""
    model = onnx.ModelProto.FromString(model.SerializeToString())

    def of_type(t):
        kind = t.WhichOneof("value")
        if kind == "tensor_type":
            t.tensor_type.elem_type = double(t.tensor_type.elem_type)
        elif kind in ("sequence_type", "optional_type"):
            of_type(getattr(t, kind).elem_type)

    def of_tensor(t):
        if t.data_type in FLOATS:
            t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t).astype(np.float64), t.name))

    def of_graph(graph):
        for info in (*graph.input, *graph.output, *graph.value_info):
            of_type(info.type)
        for t in graph.initializer:
            of_tensor(t)
        for node in graph.node:
            of_node(node)

    def of_node(node):
        for a in node.attribute:
            if a.type == onnx.AttributeProto.TENSOR:
                of_tensor(a.t)
            elif a.type == onnx.AttributeProto.GRAPH:
                of_graph(a.g)
            elif node.op_type in ("Cast", "EyeLike", "RandomNormalLike", "RandomUniformLike") and a.name in ("to", "dtype"):
                a.i = double(a.i)
        if node.op_type == "Constant":
            for a in list(node.attribute):
                if a.name in ("value_float", "value_floats"):
                    value = np.array(a.f if a.name == "value_float" else a.floats, np.float64)
                    node.attribute.remove(a)
                    node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(value)))

    of_graph(model.graph)
    return model


def floats_of(y):
    return y.astype(np.float64) if is_float(y) else y


class Evaluator:
    """A function of the model's float inputs, by one of the methods."""

    def __init__(self, case, name, run, feed_type, element_step, direction_step, settled):
        self.case, self.name, self.run, self.feed_type = case, name, run, feed_type
        self.element_step, self.direction_step, self.settled = element_step, direction_step, settled

    def outputs(self, feeds):
        cast = lambda v: np.asarray(v.astype(self.feed_type)) if self.feed_type is not None and is_float(v) else v
        return [floats_of(y) if isinstance(y, np.ndarray) else y for y in self.run({n: cast(v) for n, v in feeds.items()})]

    def agrees(self, feeds):
        """Whether the outputs are the test's."""
        case = self.case
        low = any(is_float(v) and v.dtype.itemsize == 2 for v in (*case.inputs.values(), *case.outputs))
        rtol, atol = (2e-2, 2e-2) if low else (max(case.rtol, 1e-3), max(case.atol, 1e-4))
        for mine, expected in zip(self.outputs(feeds), case.outputs):
            if is_float(expected):
                mine, expected = np.asarray(mine), expected.astype(np.float64)
                if mine.shape != expected.shape or not np.allclose(mine, expected, rtol, atol, equal_nan=True):
                    return False
        return True


def evaluators(case):
    """The methods that run the model, best first."""
    with_double = None
    try:
        with_double = to_double(case.model)
        if case.model.graph.node[0].op_type in MISREAD:
            raise NotImplementedError
        evaluator = ReferenceEvaluator(with_double)
        yield Evaluator(case, "float64", lambda feeds: evaluator.run(None, feeds), np.float64, 1e-5, 1e-6, 1e-6)
    except Exception:  # the evaluator raises whatever its operators raise
        pass
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    for name, model, kind, step, settled in (
        ("float64", with_double, np.float64, 1e-5, 1e-6),
        ("float32", case.model, None, 1e-2, 1e-3),
    ):
        try:
            session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception:
            continue
        yield Evaluator(case, name, lambda feeds, s=session: s.run(None, feeds), kind, step, step / 10 if kind else step, settled)


@functools.cache
def weight(shape, output):
    return numbers(int(np.prod(shape)), WEIGHT_STREAM + output).reshape(shape)


def total(case, outputs, shapes):
    """Sum of w * y over the float outputs, which have to have these shapes."""
    result = 0.0
    for i in case.weighted:
        if outputs[i].shape != shapes[i]:
            raise Unsettled("it sets the size of an output")
        result += float(np.sum(weight(shapes[i], i) * outputs[i]))
    return result


def slope(evaluator, feeds, shapes, middle, name, direction, h):
    """The derivative along a direction, by central differences; `middle` is the value in the middle."""
    case, start = evaluator.case, feeds[name].astype(np.float64)

    def at(by):
        moved = start + by * direction
        if evaluator.feed_type is None:
            # The step that the type can take.
            moved = moved.astype(feeds[name].dtype)
        moved = np.asarray(moved)
        try:
            outputs = evaluator.outputs({**feeds, name: moved})
        except Exception:  # whatever an operator's implementation raises
            raise Unsettled("the model does not run on values near by") from None
        return total(case, outputs, shapes)

    (right, left), (near_right, near_left) = (at(h), at(-h)), (at(h / 2), at(-h / 2))
    wide, near = (right - left) / (2 * h), (near_right - near_left) / h
    # How far the two sides disagree: halved with the step where the function is smooth, constant at a kink.
    bend, near_bend = abs(right - 2 * middle + left) / h, abs(near_right - 2 * middle + near_left) / (h / 2)
    scale = max(1.0, abs(near))
    if not np.isfinite(near) or abs(wide - near) > evaluator.settled * scale:
        raise Unsettled("its differences do not settle")
    if near_bend > 100 * evaluator.settled * scale and near_bend > 0.75 * bend:
        raise Unsettled("it lies on a kink")
    return (4 * near - wide) / 3


def reference(evaluator, feeds, shapes, middle, name):
    """The derivatives for an input."""
    value = feeds[name]
    if value.size <= ELEMENTS:
        directions, h = np.eye(value.size), evaluator.element_step
    else:
        directions, h = [numbers(value.size, k) for k in range(DIRECTIONS)], evaluator.direction_step
    if evaluator.feed_type is None:
        # In float32 the step has to be seen beside the value.
        h *= max(1.0, float(np.max(np.abs(value.astype(np.float64)))) / 8)
    found = [slope(evaluator, feeds, shapes, middle, name, d.reshape(value.shape), h) for d in directions]
    return np.array(found).reshape(value.shape if value.size <= ELEMENTS else -1)


# `found` has for each input its gradient or why there is none; `stuck` is how many have none.
Solution = collections.namedtuple("Solution", "method feeds moved found total stuck")


def references(evaluator, case):
    """What one method says."""
    best = None
    feeds, moved = dict(case.start), list(case.replaced)
    for attempt in range(6):
        try:
            outputs = evaluator.outputs(feeds)
            shapes = {i: outputs[i].shape for i in case.weighted}
            if any(outputs[i].size == 0 for i in case.weighted):
                raise Unsettled("an output is empty")
            middle = total(case, outputs, shapes)
        except Exception:  # whatever an operator's implementation raises
            if best is None:
                raise
            # Not every model runs on values near by.
            break
        found, stuck = {}, []
        for name in case.wrt:
            try:
                found[name] = reference(evaluator, feeds, shapes, middle, name)
            except Unsettled as reason:
                found[name] = str(reason)
                stuck.append(name)
        if best is None or len(stuck) < best.stuck:
            best = Solution(evaluator.name, dict(feeds), moved, found, middle, len(stuck))
        if not stuck:
            break
        # Somewhere else near by.
        for name in stuck:
            value = case.start[name]
            step = numbers(value.size, 2000 + 50 * attempt + case.wrt.index(name)).reshape(value.shape)
            step = np.where(step < 0, step - 0.25, step + 0.25) * 0.1 * (attempt // 2 + 1)
            feeds[name] = np.asarray((value.astype(np.float64) + step).astype(value.dtype))
        moved = [n for n in case.wrt if n in stuck or n in moved]
    return best


class Case:
    def __init__(self, test):
        self.model, self.name, self.rtol, self.atol = test.model, test.name, test.rtol, test.atol
        inputs, self.outputs = test.data_sets[0]
        names = [i.name for i in self.model.graph.input]
        def array(v):
            if isinstance(v, onnx.TensorProto):
                return numpy_helper.to_array(v)
            return np.asarray(v) if np.isscalar(v) else v

        self.inputs = {n: array(v) for n, v in zip(names, inputs)}
        self.outputs = [array(v) for v in self.outputs]
        self.wrt = [n for n, v in self.inputs.items() if is_float(v) and v.size]
        finite = lambda v: np.all(np.isfinite(v.astype(np.float64)))
        floats = [i for i, y in enumerate(self.outputs) if is_float(y)]
        # Where infinities come through to every output, other numbers take their place.
        odd = [n for n in self.wrt if not finite(self.inputs[n])]
        self.replaced = odd if not any(finite(self.outputs[i]) for i in floats) else []
        self.start = dict(self.inputs)
        for name in self.replaced:
            value = self.inputs[name].astype(np.float64)
            value = np.where(np.isfinite(value), value, numbers(value.size, 3000).reshape(value.shape))
            self.start[name] = np.asarray(value.astype(self.inputs[name].dtype))
        # The outputs that the sum is made of.
        self.weighted = [i for i in floats if self.outputs[i].size and (self.replaced or finite(self.outputs[i]))]
        self.skipped = [i for i in floats if self.outputs[i].size and i not in self.weighted]

    def solve(self):
        """(inputs, metadata, tensors)."""
        metadata = {"unweighted": " ".join(map(str, self.skipped))} if self.skipped else {}
        if not self.wrt or not self.weighted:
            return self.inputs, metadata, {}
        best, reasons = None, []
        for evaluator in evaluators(self):
            try:
                if not evaluator.agrees(self.inputs):
                    reasons.append("its outputs are not those that onnx stores")
                    continue
                solution = references(evaluator, self)
            except Exception:  # whatever an operator's implementation raises
                continue
            if best is None or solution.stuck < best.stuck:
                best = solution
            if not best.stuck:
                break
        if best is None:
            return self.inputs, {**metadata, "none": "; ".join(dict.fromkeys(reasons)) or "nothing here evaluates it"}, {}
        metadata["method"] = best.method
        if best.moved:
            metadata["moved"] = " ".join(best.moved)
        tensors = {"total/sum": np.array(best.total)}
        for name, gradient in best.found.items():
            if isinstance(gradient, str):
                metadata[f"none/{name}"] = gradient
            else:
                tensors[f"reference/{name}"] = gradient.astype(np.float32)
        return best.feeds, metadata, tensors

    def bytes(self):
        inputs, metadata, tensors = self.solve()
        model = onnx.ModelProto.FromString(self.model.SerializeToString())
        model.graph.name = self.name.removeprefix("test_")
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                if value.dtype.kind in "US":
                    value = value.astype(object)
                tensors[f"value/{name}"] = value
        for name, value in tensors.items():
            model.graph.initializer.append(numpy_helper.from_array(value, name))
        helper.set_model_props(model, metadata)
        return metadata, model.SerializeToString()


def main():
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    onnxruntime.set_default_logger_severity(4)
    files = collections.defaultdict(list)
    counts = collections.Counter()
    for test in sorted(collect_testcases(None), key=lambda t: t.name):
        metadata, case = Case(test).bytes()
        name = test.name.removeprefix("test_")
        files[name[0]].append(struct.pack("<I", len(case)) + case)
        kind = metadata.get("method") or ("no reference" if "none" in metadata else "nothing to differentiate")
        counts[kind] += 1
        for key, reason in metadata.items():
            if key.startswith("none"):
                print(f"{name}: no reference{key[4:].replace('/', ' for ')}: {reason}", flush=True)
    FOLDER.mkdir(exist_ok=True)
    for letter, cases in sorted(files.items()):
        data = zlib.compress(b"".join(cases), 9)
        (FOLDER / f"{letter}.cases.z").write_bytes(data)
        print(f"{letter}: {len(cases)} models, {len(data)} bytes")
    print(dict(counts))


if __name__ == "__main__":
    main()
