#!/usr/bin/env python3
"""Measure what `dendrite grow` reaches, over seeds, with every exported model scored by the stock Python onnxruntime.

    python3 scripts/results.py [--binary target/release/dendrite] [--data FOLDER] [--seeds 5] [--only NAME] [--markdown docs/results.md]

Needs numpy and onnxruntime. Without --data the models and data in this repository serve. With it, FOLDER holds one folder
for each data set (letters, mnist8-optdigits, japanese-vowels), each with its model and train, val and test .npz; a
retain.npz beside them (never trained on) is scored too.
"""
import argparse
import json
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnxruntime as ort

ROOT = pathlib.Path(__file__).resolve().parent.parent
# name: (data set, model file, options)
STUDIES = {
    "letters pb": ("letters", "letters", "--method pb"),
    "letters hybrid": ("letters", "letters", "--method hybrid"),
    "letters gd": ("letters", "letters", "--method gd"),
    "letters gd, layer": ("letters", "letters", "--method gd --connect layer --max-parameters 3200"),
    "letters, without dendrites": ("letters", "letters", "--dendrites 0"),
    "digits": ("mnist8-optdigits", "mnist8", "--method gd --lr 1e-4 --epochs 12 --dendrites 1"),
    "digits, without dendrites": ("mnist8-optdigits", "mnist8", "--lr 1e-4 --epochs 12 --dendrites 0"),
    "digits, to the end": ("mnist8-optdigits", "mnist8", "--lr 1e-4 --dendrites 1"),
    "vowels": ("japanese-vowels", "jv_cnn4", "--method gd --connect layer --width 16 --dendrites 1 --lr 0.01"),
    "vowels, without dendrites": ("japanese-vowels", "jv_cnn4", "--dendrites 0 --lr 0.01"),
}
IN_REPOSITORY = {"mnist8-optdigits": "optdigits"}
MODEL_IN_FOLDER = {"letters": "model.onnx", "mnist8": "model.onnx", "jv_cnn4": "jv_cnn4.onnx"}


def accuracy(model, data):
    """Share of rows whose largest score is the target, in the stock runtime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    arrays = np.load(data)
    output = next(o.name for o in session.get_outputs() if "float" in o.type)
    port = session.get_inputs()[0]
    rows = arrays[port.name].astype(np.float32)
    step = port.shape[0] if isinstance(port.shape[0], int) else len(rows)
    scores = [session.run([output], {port.name: rows[i : i + step]})[0] for i in range(0, len(rows), step)]
    return float((np.concatenate(scores).argmax(-1) == arrays["target"]).mean())


def places(arguments, dataset, model):
    if arguments.data:
        folder = pathlib.Path(arguments.data) / dataset
        return folder / MODEL_IN_FOLDER[model], folder
    return ROOT / "models" / f"{model}.onnx", ROOT / "fixtures" / IN_REPOSITORY.get(dataset, dataset)


def spread(values, scale=100, digits=1):
    mean = statistics.mean(values) * scale
    return f"{mean:.{digits}f} ({min(values) * scale:.{digits}f} to {max(values) * scale:.{digits}f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/dendrite"))
    parser.add_argument("--data")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", help="studies whose names contain this")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--markdown", help="write the table there too")
    arguments = parser.parse_args()
    rows = []
    for name, (dataset, model, options) in STUDIES.items():
        if arguments.only and arguments.only not in name:
            continue
        path, folder = places(arguments, dataset, model)
        retain = folder / "retain.npz"
        before = accuracy(path, folder / "test.npz")
        tests, kept, seconds, parameters, parity = [], [], [], [], []
        for seed in range(arguments.seeds):
            with tempfile.TemporaryDirectory() as scratch:
                run = pathlib.Path(scratch) / "run"
                command = [arguments.binary, "grow", str(path), "-o", str(run), "--seed", str(seed), "--quiet", "--json"]
                for part in ("train", "val", "test"):
                    command += [f"--{part}", str(folder / f"{part}.npz")]
                command += ["--threads", str(arguments.threads)] + shlex.split(options)
                start = time.time()
                done = subprocess.run(command, capture_output=True, text=True)
                seconds.append(time.time() - start)
                if done.returncode not in (0, 1):
                    sys.exit(f"{' '.join(command)}\n{done.stderr}")
                summary = json.loads((run / "summary.json").read_text())
                tests.append(accuracy(run / "model.onnx", folder / "test.npz"))
                if retain.exists():
                    kept.append(accuracy(run / "model.onnx", retain))
                parameters.append(summary["after"]["parameters"])
                parity.append((summary["parity"]["ort"], summary["parity"]["tract"]))
        row = [
            name,
            f"`{options}`",
            f"{before * 100:.1f}",
            spread(tests),
            spread(kept) if kept else "-",
            f"{min(parameters):,} to {max(parameters):,}" if min(parameters) < max(parameters) else f"{parameters[0]:,}",
            f"{statistics.mean(seconds):.0f} (at most {max(seconds):.0f})",
            f"{max(p[0] for p in parity):.0e}, " + (f"{max(p[1] for p in parity):.0e}" if all(p[1] is not None for p in parity) else "-"),
        ]
        rows.append(row)
        print(" | ".join(row), flush=True)
    if arguments.markdown:
        header = ["study", "options", "test before, %", "test after, % (spread)", "retained, %", "parameters", "seconds", "parity: ONNX Runtime, tract"]
        lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        text = (
            "# Results\n\n"
            f"Written by `scripts/results.py`: {arguments.seeds} seeds, {arguments.threads} threads, every exported model scored by the\n"
            "stock Python onnxruntime on the test file, which `grow` reads once, at its end. Mean, and lowest to highest, over\n"
            "seeds. \"Without dendrites\" is the control: the fine-tune alone.\n\n" + "\n".join(lines) + "\n"
        )
        pathlib.Path(arguments.markdown).write_text(text)


if __name__ == "__main__":
    main()
