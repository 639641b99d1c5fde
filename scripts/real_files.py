#!/usr/bin/env python3
"""Plan, grow and export models that others have published, and hold what comes of it against the stock onnxruntime.

    python3 scripts/real_files.py [--binary target/release/dendrite] [--packages FOLDER] [--data FOLDER] [--only NAME]
                                  [--markdown docs/real-files.md] [--keep FOLDER] [--threads 2]

Needs numpy, onnx, onnxruntime and pip. The models lie in Python packages, fetched with `pip download --no-deps` into
--packages (else a temporary folder); with --data, the folders of models with data of their own are grown too. Packages' models
get seeded random inputs, and as targets their own outputs, shrunk and shifted: something that a few steps can learn. Each model
is planned, grown for a few steps with dendrites from the start, and exported; then

- the export loads in the stock onnxruntime, has dendrites, and most of their sets have connections that are not zero;
- its outputs without and with the runtime's optimisations, and those the product trained (`parity` in summary.json), agree to
  1e-5 of the largest output (or of 1);
- the loss on validation data, taken here of the export's outputs, is the one that the product reports.

Models that cannot be trained must be refused with the words that say why. Exits 1 where any of it is otherwise.
"""
import argparse
import dataclasses
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time
import zipfile

import numpy as np
import onnx
import onnxruntime as ort

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOLERANCE = 1e-5
# The same sum in another order and precision.
LOSS_TOLERANCE = 1e-3
FEW_STEPS = "--no-finetune-first --tries 1 --dendrites 1 --set dendrite-epochs=1 --pool 2"
TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_, "tensor(double)": np.float64}


@dataclasses.dataclass
class Model:
    """A file of a package, how random data for it look, or with which words it is refused."""

    package: str
    path: str
    # Sizes of axes that the file leaves open, by their names; the first axis counts samples unless `axes` says otherwise.
    sizes: dict = dataclasses.field(default_factory=dict)
    # The axis of samples of inputs and outputs where it is not the first.
    axes: dict = dataclasses.field(default_factory=dict)
    # Inputs that are the same for every sample.
    same: tuple = ()
    # Whether no axis counts samples: each is a whole input.
    whole: bool = False
    # Integers of an input lie below this; below 2 unless said.
    below: dict = dataclasses.field(default_factory=dict)
    loss: str = "mse"
    scale: float = 1.0
    rows: tuple = (32, 16)
    options: str = "--epochs 3 --lr 1e-3 --batch 8"
    # Words of the refusal.
    refused: tuple = ()


@dataclasses.dataclass
class Folder:
    """A folder of --data: a model with data of its own."""

    folder: str
    model: str = "model.onnx"
    data: str = "{}.npz"
    # How many samples of training and validation data are used.
    rows: tuple = (512, 128)
    loss: str = "cross-entropy"
    # Whether the outputs are probabilities.
    probabilities: bool = False
    options: str = "--epochs 2 --lr 1e-3"


# What the refusal of a quantised model says.
QUANTISED = ("computes with quantised numbers, which cannot be trained", "grow the float model it was made from")
SPEECHMOS, DDDDOCR, QONNX, SURFACES = "speechmos==0.0.1.1", "ddddocr==1.6.1", "qonnx==1.0.0", "surfaces-onnx-files==0.0.1"
# Few samples of much work.
LONG = {"rows": (8, 10), "options": "--epochs 1 --lr 1e-3 --batch 4"}
ECHO = {"sizes": {"frames": 40}, "axes": {"h0": 1}, "same": ("h0",)}
MODELS = {
    "basic-pitch": Model(
        "basic-pitch==0.4.0", "nmp.onnx", loss="bce", scale=0.1, rows=(12, 10)
    ),
    "aecmos, first": Model(SPEECHMOS, "aecmos_models/Run_1663829550_Stage_0.onnx", scale=0.3, **ECHO),
    "aecmos, second": Model(SPEECHMOS, "aecmos_models/Run_1663915512_Stage_0.onnx", **ECHO),
    "aecmos, third": Model(SPEECHMOS, "aecmos_models/Run_1668423760_Stage_0.onnx", **ECHO),
    "plcmos": Model(SPEECHMOS, "plcmos_v2.onnx", sizes={"frames": 100}),
    "captcha_crnn": Model("captcha-whisperer==0.1.0", "captcha_crnn.onnx", axes={"logits": 1}, rows=(24, 12)),
    "caustic": Model(
        "caustic-nmr==0.4.1",
        "best_v2_carbons.onnx",
        sizes={"num_atoms": 60, "num_edges": 200, "num_residues": 10},
        whole=True,
        below={"edge_index": 60, "target_indices": 60},
        options="--one-at-a-time --epochs 3 --lr 1e-5 --batch 8",
    ),
    "ddddocr common": Model(
        DDDDOCR, "common.onnx", sizes={"image_width": 64}, axes={"387": 1}, rows=(12, 10), options="--epochs 3 --lr 1e-5 --batch 4"
    ),
    "ddddocr common_det": Model(
        DDDDOCR, "common_det.onnx", scale=50, rows=(8, 10), options="--epochs 2 --lr 1e-5 --batch 4"
    ),
    "mnist-conv": Model(QONNX, "mnist-conv/model.onnx", scale=50),
    "espcn nn_resize": Model(QONNX, "nn_resize/float_model.onnx", rows=(16, 10)),
    "gradient boosting": Model(SURFACES, "gradient_boosting_regressor.onnx", rows=(256, 64)),
    "k neighbours, classes": Model(SURFACES, "k_neighbors_classifier.onnx", rows=(256, 64)),
    "k neighbours, numbers": Model(SURFACES, "k_neighbors_regressor.onnx", rows=(256, 64)),
    "ddddocr common_old": Model(DDDDOCR, "common_old.onnx", refused=QUANTISED),
    "espcn quantised": Model(QONNX, "nn_resize/quant_model.onnx", refused=QUANTISED),
    "dnsmos bak_ovr": Model(SPEECHMOS, "dnsmos_models/bak_ovr.onnx", **LONG),
    "dnsmos model_v8": Model(SPEECHMOS, "dnsmos_models/model_v8.onnx", **LONG),
    "dnsmos sig": Model(SPEECHMOS, "dnsmos_models/sig.onnx", **LONG),
    "dnsmos sig_bak_ovr": Model(SPEECHMOS, "/dnsmos_models/sig_bak_ovr.onnx", scale=0.1, **LONG),
    "pdnsmos sig_bak_ovr": Model(SPEECHMOS, "/pdnsmos_models/sig_bak_ovr.onnx", scale=0.1, **LONG),
}
PIXELS = "--set preprocess.scale=0.0078125 --set preprocess.mean=0.9921875"
FOLDERS = {
    "letters": Folder("letters", probabilities=True, rows=(13000, 3000), options="--epochs 12 --lr 1e-2"),
    "mnist-8": Folder("mnist8-optdigits", options="--epochs 3 --lr 1e-4"),
    "vowels, convolutions": Folder("japanese-vowels", "jv_cnn4.onnx", options="--epochs 40 --lr 1e-2"),
    "vowels, GRU": Folder("japanese-vowels", "jv_gru8.onnx", options="--epochs 40 --lr 1e-2"),
    "CREPE": Folder("crepe-pitch", loss="bce", probabilities=True, rows=(128, 64), options="--epochs 2 --lr 1e-3 --batch 16"),
    "MiniLM": Folder("minilm-sentiment", data="tweets-{}.npz", rows=(128, 64), options="--epochs 2 --lr 1e-4 --sites logits"),
    "EfficientNet": Folder(
        "clipart", data="{}", rows=(24, 12), options=f"--epochs 20 --lr 1e-3 --batch 16 --train-weights head {PIXELS}"
    ),
}

failures = []


def fail(name, what):
    failures.append(f"{name}: {what}")
    print(f"  FAILED: {what}", flush=True)


def fetch(package, folder):
    """The .onnx files of a package, by their paths in it."""
    name, version = package.split("==")
    stem = f"{name.replace('-', '_')}-{version}"
    found = [p for p in folder.iterdir() if p.name.startswith(f"{stem}-") and p.suffix == ".whl"]
    if not found:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(folder), package]
        subprocess.run(command, check=True)
        found = [p for p in folder.iterdir() if p.name.startswith(f"{stem}-") and p.suffix == ".whl"]
    target = folder / stem
    with zipfile.ZipFile(found[0]) as wheel:
        for member in wheel.namelist():
            if member.endswith(".onnx") and not (target / member).exists():
                wheel.extract(member, target)
    return {f"/{p.relative_to(target).as_posix()}": p for p in sorted(target.rglob("*.onnx"))}


def session(model, threads, optimised=True):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def first_float(run):
    return next(o.name for o in run.get_outputs() if "float" in o.type)


def outputs(run, case, arrays, output):
    """An output sample for sample, for arrays whose first axis counts samples."""
    axes, same = getattr(case, "axes", {}), getattr(case, "same", ())
    rows = len(next(a for name, a in arrays.items() if name not in same))
    found = []
    for row in range(rows):
        feeds = {}
        for port in run.get_inputs():
            whole = arrays[port.name]
            one = whole if port.name in same else whole[row]
            if port.name not in same and not getattr(case, "whole", False):
                one = np.expand_dims(one, axes.get(port.name, 0))
            feeds[port.name] = one.astype(TYPES[port.type])
        value = run.run([output], feeds)[0]
        axis = axes.get(output, 0)
        counts = value.ndim > axis and value.shape[axis] == 1 and not getattr(case, "whole", False)
        found.append(value.take(0, axis) if counts else value)
    return np.stack(found)


def made_up(case, model, rows, seed):
    """Inputs for `rows` samples."""
    random = np.random.default_rng(seed)
    arrays = {}
    for port in session(model, 1).get_inputs():
        axis = case.axes.get(port.name, 0)
        shape = [case.sizes.get(d, d) for d in port.shape]
        if case.whole:
            shape = [rows] + shape
        elif port.name not in case.same:
            shape = [rows] + shape[:axis] + shape[axis + 1 :]
        if "float" in port.type:
            arrays[port.name] = (random.standard_normal(shape) * case.scale).astype(np.float32)
        elif "bool" in port.type:
            arrays[port.name] = np.ones(shape, np.bool_)
        else:
            arrays[port.name] = random.integers(0, case.below.get(port.name, 2), shape)
    return arrays


def losses(kind, probabilities, values, target):
    """The mean loss of outputs in double precision."""
    values = values.astype(np.float64)
    if kind == "mse":
        return float(((values - target) ** 2).mean())
    if kind == "bce":
        values = np.clip(values, 1e-30, 1 - 1e-16)
        return float(-(target * np.log(values) + (1 - target) * np.log1p(-values)).mean())
    logarithms = np.log(np.maximum(values, 1e-30)) if probabilities else values
    logarithms = logarithms - logarithms.max(-1, keepdims=True)
    logarithms -= np.log(np.exp(logarithms).sum(-1, keepdims=True))
    return float(-logarithms[np.arange(len(target)), target].mean())


def difference(a, b):
    """|a - b| / max(1, max |b|), at its largest."""
    return float(np.abs(a.astype(np.float64) - b).max() / max(1.0, float(np.abs(b).max())))


def run(command, threads):
    """Exit code, output, error, seconds and the largest memory in MB of a command."""
    start = time.time()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        child = subprocess.Popen(command, stdout=out, stderr=error)
        _, status, usage = os.wait4(child.pid, 0)
        texts = []
        for stream in (out, error):
            stream.seek(0)
            texts.append(stream.read().decode())
    return os.waitstatus_to_exitcode(status), *texts, time.time() - start, usage.ru_maxrss / 1000


def model_data(case, model, folder, threads):
    """Training and validation data as files; the arrays of the latter."""
    plain = session(model, threads)
    output = first_float(plain)
    for part, rows, seed in zip(("train", "val"), case.rows, (1, 2)):
        arrays = made_up(case, model, rows, seed)
        own = outputs(plain, case, arrays, output)
        if case.loss == "bce":
            target = 0.5 * own + 0.25
        else:
            target = 0.8 * own - 0.2 * max(1e-3, float(np.abs(own).mean()))
        np.savez(folder / f"{part}.npz", **arrays, target=target.astype(np.float32))
    return folder / "train.npz", folder / "val.npz", arrays, target, output


def folder_data(case, source, folder):
    """A part of a folder's data, so that a few steps take seconds."""
    found = []
    for part, rows in zip(("train", "val"), case.rows):
        path = source / case.data.format(part)
        if path.is_dir():
            for label in sorted(p for p in path.iterdir() if p.is_dir()):
                (folder / part / label.name).mkdir(parents=True)
                for image in sorted(label.iterdir())[:rows]:
                    (folder / part / label.name / image.name).write_bytes(image.read_bytes())
            (folder / "classes.txt").write_bytes((source / "classes.txt").read_bytes())
            found.append(folder / part)
        else:
            arrays = np.load(path)
            picks = np.random.default_rng(3).permutation(len(arrays["target"]))[:rows]
            np.savez(folder / f"{part}.npz", **{name: arrays[name][picks] for name in arrays.files})
            found.append(folder / f"{part}.npz")
    return found


def connections(model):
    """How many dendrite sets an exported model has, and how many of them reach their neurons."""
    tensors = [t for t in onnx.load(str(model)).graph.initializer if "/dendrite_" in t.name and t.name.endswith("/connection")]
    return len(tensors), sum(bool(np.any(onnx.numpy_helper.to_array(t))) for t in tensors)


def exponent(value):
    return f"{value:.0e}" if value else "0"


class Table:
    HEADER = ["model", "bytes", "nodes", "operators", "parameters", "sites", "sets grown", "loss", "seconds", "MB", "parity", "off, on", "tract"]

    def __init__(self):
        self.rows, self.refused, self.notes = [], [], []

    def markdown(self):
        # Without tract in the program there is nothing to say of it.
        shown = len(self.HEADER) - all(row[-1] == "-" for row in self.rows)
        lines = ["| " + " | ".join(self.HEADER[:shown]) + " |", "|" + "---|" * len(self.HEADER[:shown])]
        lines += ["| " + " | ".join(row[:shown]) + " |" for row in self.rows]
        if self.refused:
            lines += ["", "| refused | words |", "|---|---|"] + [f"| {name} | {words} |" for name, words in self.refused]
        return "\n".join(lines + [""] + self.notes)


def check(name, case, model, folder, arguments, table):
    facts = json.loads(subprocess.run([arguments.binary, "inspect", str(model), "--json"], capture_output=True, text=True).stdout or "{}")
    if not facts:
        return fail(name, "inspect says nothing")
    alone = ["--set", "one-at-a-time=true"] if getattr(case, "whole", False) else []
    code, plan, error, _, _ = run([arguments.binary, "plan", str(model), "--json", *alone], arguments.threads)
    refused = getattr(case, "refused", ())
    if refused:
        words = " ".join(error.split())
        if code != 2 or any(part not in words for part in refused):
            return fail(name, f"plan: exit code {code}: {words or plan}")
        table.refused.append((name, words.replace("|", "\\|")))
        return print(f"{name}: refused: {words}", flush=True)
    if code != 0:
        return fail(name, f"plan: exit code {code}: {error}")
    sites = json.loads(plan)["sites"]
    arrays = None
    if isinstance(case, Model):
        train, val, arrays, target, wanted = model_data(case, model, folder, arguments.threads)
    else:
        train, val = folder_data(case, model.parent, folder)
        wanted = first_float(session(model, 1))
        if val.suffix == ".npz":
            loaded = np.load(val)
            arrays, target = {n: loaded[n] for n in loaded.files if n != "target"}, loaded["target"]
    out = folder / "run"
    command = [arguments.binary, "grow", str(model), "--train", str(train), "--val", str(val), "-o", str(out)]
    command += ["--loss", case.loss, "--threads", str(arguments.threads), "--quiet", *shlex.split(FEW_STEPS), *shlex.split(case.options)]
    code, _, error, seconds, memory = run(command, arguments.threads)
    if code != 0:
        return fail(name, f"grow: exit code {code}: {' '.join(error.split())}\n  {shlex.join(command)}")
    summary = json.loads((out / "summary.json").read_text())
    exported = out / "model.onnx"
    sets, reaching = connections(exported)
    # A set whose rectifiers never open has nothing to learn by, and stays unconnected.
    if reaching == 0 or reaching < sets / 2:
        fail(name, f"{reaching} of {sets} dendrite sets have connections that are not zero")
    parity = summary["parity"]
    if not parity["ort"] <= TOLERANCE:
        # Only what the runtime's optimisations do to the input model as well is let pass, and shown.
        plain, own = parity.get("ort_unoptimised"), parity.get("input_optimised")
        if plain is None or plain > TOLERANCE or own is None or parity["ort"] > own:
            fail(name, f"the export is {parity['ort']} from what was trained ({plain} unoptimised, the input {own} from itself)")
    apart = None
    reported = summary["after"]["val"]["loss"]
    if arrays is not None:
        values = outputs(session(exported, arguments.threads), case, arrays, wanted)
        apart = difference(values, outputs(session(exported, arguments.threads, False), case, arrays, wanted))
        before = [outputs(session(model, arguments.threads, level), case, arrays, wanted) for level in (True, False)]
        if apart > max(TOLERANCE, difference(*before)):
            fail(name, f"the export's outputs without and with optimisations are {apart} apart")
        expected = losses(case.loss, getattr(case, "probabilities", False), values, target)
        if abs(expected - reported) > LOSS_TOLERANCE * max(abs(expected), 1e-6):
            fail(name, f"the export's loss is {expected}, reported is {reported}")
    else:
        session(exported, arguments.threads)
    row = [
        name,
        f"{model.stat().st_size:,}",
        str(facts["nodes"]),
        str(len(facts["operators"])),
        f"{summary['before']['parameters']:,} to {summary['after']['parameters']:,}",
        str(len(sites)),
        str(sets) if reaching == sets else f"{sets}, {reaching} connected",
        f"{summary['before']['val']['loss']:.3g} to {reported:.3g}",
        f"{seconds:.0f}",
        f"{memory:,.0f}",
        exponent(parity["ort"]),
        "-" if apart is None else exponent(apart),
        "-" if parity["tract"] is None else exponent(parity["tract"]),
    ]
    table.rows.append(row)
    print(" | ".join(row), flush=True)
    reason = parity.get("tract_reason")
    if reason and "built without" not in reason:
        table.notes.append(f"- {name}, tract: {' '.join(reason.split())}")


def write(arguments, table):
    if not arguments.markdown:
        return
    text = (
        "# Real files\n\n"
        "Written by `scripts/real_files.py`: models as they were published, each planned, grown for a few steps with dendrites from the\n"
        "start, and exported. Those of packages (" + ", ".join(sorted({c.package for c in MODELS.values()})) + ")\n"
        "got seeded noise, and as targets their own outputs, shrunk and shifted: what is shown is that they train, not that it helps.\n"
        "The others were trained on a part of their own data.\n\n"
        "Parity: how far the export is from what was trained, |a - b| at most, of the largest output or of 1. Off, on: how far\n"
        "ONNX Runtime's optimisations bring the export's outputs from themselves, measured with its Python package. Loss: on validation\n"
        "data, before and after; that of the export is taken again of its outputs in Python and must be the same. MB: the largest memory\n"
        "of the run.\n\n"
        f"{table.markdown().rstrip()}\n"
    )
    pathlib.Path(arguments.markdown).write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/dendrite"))
    parser.add_argument("--packages", help="keep fetched packages there")
    parser.add_argument("--data", help="folders of models with data of their own")
    parser.add_argument("--only", help="models whose names contain this")
    parser.add_argument("--keep", help="keep data and run folders there")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--markdown", help="write the table there too")
    arguments = parser.parse_args()
    cases = {**(FOLDERS if arguments.data else {}), **MODELS}
    table = Table()
    with tempfile.TemporaryDirectory() as scratch:
        packages = pathlib.Path(arguments.packages or f"{scratch}/packages")
        packages.mkdir(parents=True, exist_ok=True)
        for number, (name, case) in enumerate(cases.items()):
            if arguments.only and arguments.only not in name:
                continue
            folder = pathlib.Path(arguments.keep or scratch) / f"{number:02}"
            folder.mkdir(parents=True)
            if isinstance(case, Model):
                files = fetch(case.package, packages)
                model = next(path for inside, path in files.items() if inside.endswith(case.path))
            else:
                model = pathlib.Path(arguments.data) / case.folder / case.model
            check(name, case, model, folder, arguments, table)
            # A run takes minutes: what there is of it stays if it is stopped.
            write(arguments, table)
    print("\n".join(["", f"{len(failures)} failed:", *failures] if failures else ["", "all as they should be"]))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
