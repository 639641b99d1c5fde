#!/usr/bin/env python3
"""Measure what `dendrite grow` reaches, over seeds, with every exported model scored by the stock Python onnxruntime.

    python3 scripts/results.py [--binary target/release/dendrite] [--data FOLDER] [--seeds 5] [--only NAME] [--skip NAME] [--large] [--markdown docs/results.md]

Needs numpy and onnxruntime. Without --data the models and data in this repository serve. With it, FOLDER holds one folder
for each data set (letters, mnist8-optdigits, japanese-vowels), each with its model and train, val and test .npz; a
retain.npz beside them (never trained on) is scored too. --large runs the studies of larger models instead (clipart,
crepe-pitch, minilm-sentiment), which need --data, and pillow for images: minutes each, three seeds are enough.
"""
import argparse
import dataclasses
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


@dataclasses.dataclass
class Study:
    """What is grown, on which files of a data set's folder, and how the result is scored."""

    dataset: str
    model: str
    options: str
    train: str = "train.npz"
    val: str = "val.npz"
    test: str = "test.npz"
    # Further files that the result is scored on.
    also: tuple = ("retain.npz",)
    score: str = "accuracy"


LAYER = "--method gd --connect layer"
STUDIES = {
    "letters pb": Study("letters", "letters", "--method pb"),
    "letters hybrid": Study("letters", "letters", "--method hybrid"),
    "letters gd": Study("letters", "letters", "--method gd"),
    "letters gd, layer": Study("letters", "letters", f"{LAYER} --max-parameters 3200"),
    "letters, without dendrites": Study("letters", "letters", "--dendrites 0"),
    "digits": Study("mnist8-optdigits", "mnist8", "--method gd --lr 1e-4 --epochs 12 --dendrites 1"),
    "digits, without dendrites": Study("mnist8-optdigits", "mnist8", "--lr 1e-4 --epochs 12 --dendrites 0"),
    "digits, to the end": Study("mnist8-optdigits", "mnist8", "--lr 1e-4 --dendrites 1"),
    "vowels": Study("japanese-vowels", "jv_cnn4", f"{LAYER} --width 16 --dendrites 1 --lr 0.01"),
    "vowels, without dendrites": Study("japanese-vowels", "jv_cnn4", "--dendrites 0 --lr 0.01"),
    "vowels, GRU": Study("japanese-vowels", "jv_gru8", f"{LAYER} --width 16 --dendrites 1 --lr 0.01"),
    "vowels, GRU, at the head alone": Study(
        "japanese-vowels", "jv_gru8", f"{LAYER} --width 16 --dendrites 1 --lr 0.01 --exclude *GRU*"
    ),
    "vowels, GRU, without dendrites": Study("japanese-vowels", "jv_gru8", "--dendrites 0 --lr 0.01"),
}


def sentiment(domain, options):
    return Study("minilm-sentiment", "minilm", options, *(f"{domain}-{part}.npz" for part in ("train", "val", "test")), also=())


PIXELS = "--set preprocess.scale=0.0078125 --set preprocess.mean=0.9921875"
CHANGED = "--set augment.flip=horizontal --set augment.shift=0.1"
NOISY = "--lr 1e-3 --epochs 20 --set augment.noise-snr-db=[0,15]"
TURNED = "--lr 1e-4 --epochs 10 --batch 16 --label-smoothing 0.1"
# Everything trains, with layer dendrites from the start.
AT_ONCE = f"{LAYER} --dendrites 1 --tries 1 --no-finetune-first"


def clipart(options):
    return Study("clipart", "clipart", f"{options} {PIXELS}", "train", "val", "test", (), "images")


def pitch(options):
    return Study("crepe-pitch", "crepe", f"{options} {NOISY}", also=("test-clean.npz",), score="cents")


LARGE = {
    "tweets": sentiment("tweets", f"{AT_ONCE} --sites logits --width 32 --lr 5e-5 --epochs 4"),
    "tweets, without dendrites": sentiment("tweets", "--dendrites 0 --lr 5e-5 --epochs 4"),
    "tweets, head alone": sentiment("tweets", f"{LAYER} --train-weights head --width 32 --dendrites 1"),
    "amazon": sentiment("amazon", f"{AT_ONCE} --sites logits --width 32 --lr 5e-5 --epochs 4"),
    "amazon, without dendrites": sentiment("amazon", "--dendrites 0 --lr 5e-5 --epochs 4"),
    "amazon, head alone": sentiment("amazon", f"{LAYER} --train-weights head --width 32 --dendrites 1"),
    "pitch": pitch(f"{AT_ONCE} --sites /conv5* /conv6* /classifier* --width 0.5"),
    "pitch, without dendrites": pitch("--dendrites 0"),
    "clipart": clipart(f"{AT_ONCE} --sites logits --width 64 {TURNED} {CHANGED}"),
    "clipart, without dendrites": clipart(f"--dendrites 0 {TURNED} {CHANGED}"),
}
IN_REPOSITORY = {"mnist8-optdigits": "optdigits"}
MODEL_IN_FOLDER = {"jv_cnn4": "jv_cnn4.onnx", "jv_gru8": "jv_gru8.onnx"}


def session(model):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def outputs(model, arrays):
    """The first float output for named arrays, in batches of the model's own size where it has one."""
    run = session(model)
    output = next(o.name for o in run.get_outputs() if "float" in o.type)
    types = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
    feeds = {p.name: arrays[p.name].astype(types[p.type]) for p in run.get_inputs()}
    first = run.get_inputs()[0]
    rows = len(feeds[first.name])
    step = first.shape[0] if isinstance(first.shape[0], int) else 256
    parts = [run.run([output], {n: a[i : i + step] for n, a in feeds.items()})[0] for i in range(0, rows, step)]
    return np.concatenate(parts)


def accuracy(model, data):
    """Share of rows whose largest score is the target."""
    arrays = np.load(data)
    return float((outputs(model, arrays).argmax(-1) == arrays["target"]).mean())


def cents(model, data):
    """Share of notes within 50 cents: the weighted mean of nine bins of 20 cents around the largest."""
    arrays = np.load(data)
    scores = outputs(model, arrays)
    near = np.abs(np.arange(360)[None] - scores.argmax(1)[:, None]) <= 4
    found = (scores * near * (np.arange(360) * 20 + 1997.3794)).sum(1) / (scores * near).sum(1)
    true = 1200 * np.log2(440 * 2 ** ((arrays["midi"] - 69) / 12) / 10)
    return float((np.abs(found - true) <= 50).mean())


def images(model, folder):
    """Share of images whose largest score is their folder's place in classes.txt."""
    from PIL import Image

    run = session(model)
    port = run.get_inputs()[0]
    side = port.shape[-1]
    classes = (folder.parent / "classes.txt").read_text().split()
    hits = total = 0
    for label, name in enumerate(classes):
        for path in sorted((folder / name).iterdir()):
            image = Image.open(path).convert("RGB").resize((side, side), Image.BILINEAR)
            pixels = (np.asarray(image, np.float32).transpose(2, 0, 1)[None] - 127) / 128
            hits += int(run.run(None, {port.name: pixels})[0].argmax() == label)
            total += 1
    return hits / total


SCORES = {"accuracy": accuracy, "cents": cents, "images": images}


def places(arguments, study):
    if arguments.data:
        folder = pathlib.Path(arguments.data) / study.dataset
        return folder / MODEL_IN_FOLDER.get(study.model, "model.onnx"), folder
    return ROOT / "models" / f"{study.model}.onnx", ROOT / "fixtures" / IN_REPOSITORY.get(study.dataset, study.dataset)


def spread(values, scale=100, digits=1):
    mean = statistics.mean(values) * scale
    return f"{mean:.{digits}f} ({min(values) * scale:.{digits}f} to {max(values) * scale:.{digits}f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/dendrite"))
    parser.add_argument("--data")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", help="studies whose names contain this")
    parser.add_argument("--skip", help="not those whose names contain this")
    parser.add_argument("--large", action="store_true", help="the studies of larger models")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--markdown", help="write the table there too")
    arguments = parser.parse_args()
    if arguments.large and not arguments.data:
        parser.error("--large needs --data: its data are not in this repository")
    rows = []
    for name, study in (LARGE if arguments.large else STUDIES).items():
        if (arguments.only and arguments.only not in name) or (arguments.skip and arguments.skip in name):
            continue
        path, folder = places(arguments, study)
        score = SCORES[study.score]
        also = [folder / file for file in study.also if (folder / file).exists()]
        before = score(path, folder / study.test)
        tests, others, seconds, parameters, parity = [], [], [], [], []
        for seed in range(arguments.seeds):
            with tempfile.TemporaryDirectory() as scratch:
                run = pathlib.Path(scratch) / "run"
                command = [arguments.binary, "grow", str(path), "-o", str(run), "--seed", str(seed), "--quiet", "--json"]
                for part in ("train", "val", "test"):
                    command += [f"--{part}", str(folder / getattr(study, part))]
                command += ["--threads", str(arguments.threads)] + shlex.split(study.options)
                start = time.time()
                done = subprocess.run(command, capture_output=True, text=True)
                seconds.append(time.time() - start)
                if done.returncode not in (0, 1):
                    sys.exit(f"{' '.join(command)}\n{done.stderr}")
                summary = json.loads((run / "summary.json").read_text())
                tests.append(score(run / "model.onnx", folder / study.test))
                others += [score(run / "model.onnx", file) for file in also]
                parameters.append(summary["after"]["parameters"])
                parity.append((summary["parity"]["ort"], summary["parity"]["tract"]))
        row = [
            name,
            f"`{study.options}`",
            f"{before * 100:.1f}",
            spread(tests),
            spread(others) if others else "-",
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
