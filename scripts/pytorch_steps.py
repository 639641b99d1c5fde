#!/usr/bin/env python3
"""Train models for some steps with `dendrite`'s training step and with PyTorch, on the same weights and batches, and hold
the losses of every step against each other.

    python3 scripts/pytorch_steps.py [--binary target/release/examples/losses] [--steps 100] [--only NAME] [--data FOLDER]
                                     [--tolerance 1e-4] [--markdown docs/pytorch.md]

Needs numpy, onnx and torch; with --data, which adds real models (crepe-pitch, clipart: see scripts/results.py), also
onnx2torch and pillow. `cargo build --release --example losses -p dendrite-trainer` builds the binary. Every other model is a
PyTorch module, exported with its weights as they are. Both sides run one optimizer (decay 0.01) at a constant rate in float32,
on batches of the rows in their order. Exits 1 if a loss differs by more than the tolerance, relative to max(1, loss).
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROWS = 256
DECAY = 0.01
CLASSES = 5


class Perceptron(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, CLASSES))


class Residual(nn.Module):
    """Two residual blocks of convolutions with batch normalisations, as in a ResNet."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.first = nn.Sequential(
            nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        )
        self.shortcut = nn.Sequential(nn.Conv2d(8, 16, 1, 2, bias=False), nn.BatchNorm2d(16))
        self.second = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1))
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        x = F.relu(self.first(x) + self.shortcut(x))
        x = F.relu(self.second(x) + x)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Depthwise(nn.Module):
    """Inverted bottlenecks of depthwise convolutions with squeeze-and-excitation, as in a MobileNetV3."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Hardswish())
        self.blocks = nn.ModuleList(self.block(8, 24, 8, stride, kernel) for stride, kernel in [(1, 3), (2, 5)])
        self.squeeze = nn.ModuleList(nn.Sequential(nn.Conv2d(24, 6, 1), nn.ReLU(), nn.Conv2d(6, 24, 1), nn.Hardsigmoid()) for _ in range(2))
        self.head = nn.Sequential(nn.Linear(8, 16), nn.Hardswish(), nn.Linear(16, CLASSES))

    @staticmethod
    def block(channels, wide, out, stride, kernel):
        return nn.ModuleList([
            nn.Conv2d(channels, wide, 1),
            nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide),
            nn.Conv2d(wide, out, 1),
        ])

    def forward(self, x):
        x = self.stem(x)
        for (expand, depthwise, project), squeeze in zip(self.blocks, self.squeeze):
            inner = F.relu6(depthwise(F.relu6(expand(x))))
            inner = project(inner * squeeze(inner.mean((2, 3), keepdim=True)))
            x = inner + x if inner.shape == x.shape else inner
        return self.head(x.mean((2, 3)))


class ConvNext(nn.Module):
    """A depthwise 7 x 7 convolution, a layer normalisation over channels and a GELU between two linear layers."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 4, 4)
        self.depthwise = nn.Conv2d(12, 12, 7, padding=3, groups=12)
        self.norm = nn.LayerNorm(12)
        self.wide, self.narrow = nn.Linear(12, 48), nn.Linear(48, 12)
        self.scale = nn.Parameter(torch.full((12,), 0.1))
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        inner = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        inner = self.narrow(F.gelu(self.wide(inner))) * self.scale
        return self.head((x + inner.permute(0, 3, 1, 2)).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self, kind, bidirectional=False, layers=1):
        super().__init__()
        self.cells = kind(12, 16, layers, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(32 if bidirectional else 16, CLASSES)

    def forward(self, x):
        return self.head(self.cells(x)[0].mean(1))


class Encoder(nn.Module):
    """Embedded tokens, learned positions and two encoder layers after BERT, with an attention mask."""

    def __init__(self, width=24, heads=4, length=16):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(50, width), nn.Parameter(0.1 * torch.randn(length, width))
        # The product keeps embeddings as they are.
        self.tokens.weight.requires_grad = False
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            nn.ModuleDict({
                "query": nn.Linear(width, width), "key": nn.Linear(width, width), "value": nn.Linear(width, width),
                "out": nn.Linear(width, width), "first": nn.LayerNorm(width),
                "wide": nn.Linear(width, 4 * width), "narrow": nn.Linear(4 * width, width), "second": nn.LayerNorm(width),
            })
            for _ in range(2)
        )
        self.head = nn.Linear(width, CLASSES)

    def attention(self, layer, x, mask):
        split = lambda v: v.reshape(v.shape[0], v.shape[1], self.heads, -1).transpose(1, 2)
        query, key, value = (split(layer[name](x)) for name in ("query", "key", "value"))
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + mask
        mixed = (scores.softmax(-1) @ value).transpose(1, 2)
        return layer["out"](mixed.reshape(x.shape[0], x.shape[1], -1))

    def forward(self, ids, attention_mask):
        mask = (1.0 - attention_mask[:, None, None, :].float()) * -10000.0
        x = self.norm(self.tokens(ids) + self.positions)
        for layer in self.layers:
            x = layer["first"](x + self.attention(layer, x, mask))
            x = layer["second"](x + layer["narrow"](F.gelu(layer["wide"](x))))
        return self.head(x[:, 0])


class Decoder(nn.Module):
    """A causal layer with rotary positions, RMS normalisations and a gated SiLU, after Llama."""

    def __init__(self, width=24, heads=3, length=12):
        super().__init__()
        self.heads, half = heads, width // heads // 2
        self.input = nn.Linear(8, width)
        self.gains = nn.ParameterList(nn.Parameter(torch.ones(width)) for _ in range(3))
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up, self.down = nn.Linear(width, 40, bias=False), nn.Linear(width, 40, bias=False), nn.Linear(40, width, bias=False)
        self.head = nn.Linear(width, CLASSES)
        angles = torch.arange(length)[:, None] * 100.0 ** (-torch.arange(half) / half)
        # In a file nothing tells a table of angles from one that was learned: it trains.
        self.cosine, self.sine = (nn.Parameter(v.repeat(1, 2)) for v in (angles.cos(), angles.sin()))
        self.register_buffer("mask", torch.full((length, length), -1e9).triu(1))

    def normalise(self, x, gain):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * gain

    def turned(self, x):
        first, second = x.chunk(2, -1)
        return x * self.cosine + torch.cat([-second, first], -1) * self.sine

    def forward(self, x):
        x = self.input(x)
        inner = self.normalise(x, self.gains[0])
        split = lambda v: v.reshape(v.shape[0], v.shape[1], self.heads, -1).transpose(1, 2)
        query, key, value = self.turned(split(self.query(inner))), self.turned(split(self.key(inner))), split(self.value(inner))
        scores = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + self.mask).softmax(-1)
        x = x + self.out((scores @ value).transpose(1, 2).reshape(x.shape))
        inner = self.normalise(x, self.gains[1])
        x = x + self.down(F.silu(self.gate(inner)) * self.up(inner))
        return self.head(self.normalise(x, self.gains[2])[:, -1])


class UNet(nn.Module):
    """Down by a strided convolution, up by a transposed one and by interpolation, joined; gives an image."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 16, 4, 2, 1)
        self.middle = nn.Conv2d(16, 16, 3, padding=2, dilation=2)
        self.up = nn.ConvTranspose2d(16, 8, 4, 2, 1)
        self.slope = nn.PReLU(8)
        self.last = nn.Conv2d(32, 1, 3, padding=1, padding_mode="reflect")

    def forward(self, x):
        first = F.elu(self.first(x))
        low = F.softplus(self.middle(F.leaky_relu(self.down(first), 0.1)))
        wide = F.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False)
        return self.last(torch.cat([first, self.slope(self.up(low)), wide], 1))


class SuperResolution(nn.Module):
    """An image of twice the size by a sub-pixel convolution."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 12, 5, padding=2), nn.Tanh(), nn.Conv2d(12, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True),
            nn.Tanh(), nn.Conv2d(8, 4, 3, padding=1), nn.PixelShuffle(2),
        )

    def forward(self, x):
        return self.layers(x)


class Audio(nn.Module):
    """Convolutions of one dimension with a strided window and an average pooling; gives independent probabilities."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(1, 8, 16, 4, 6), nn.BatchNorm1d(8), nn.ReLU(), nn.AvgPool1d(2),
            nn.Conv1d(8, 16, 8, 2, 3), nn.SELU(), nn.Conv1d(16, 16, 3, padding=2, dilation=2), nn.Softsign(),
        )
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        return torch.sigmoid(self.head(self.layers(x).amax(-1)))


class Siamese(nn.Module):
    """One branch applied twice, its weights shared, and the distance of what it gives."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(10, 24), nn.GELU(), nn.Linear(24, 12))
        self.head = nn.Bilinear(12, 12, 4)
        self.last = nn.Linear(4, CLASSES)

    def forward(self, left, right):
        a, b = self.branch(left), self.branch(right)
        mixed = torch.einsum("bi,kij,bj->bk", a, self.head.weight, b) + self.head.bias
        return self.last(torch.cat([mixed], 1) + (a - b).abs().mean(1, keepdim=True))


def images(channels, side):
    return lambda rng: {"x": rng.standard_normal((ROWS, channels, side, side), np.float32)}


def features(*shape):
    return lambda rng: {"x": rng.standard_normal((ROWS, *shape), np.float32)}


def tokens(rng):
    mask = np.arange(16)[None] < rng.integers(4, 17, (ROWS, 1))
    return {"ids": rng.integers(0, 50, (ROWS, 16)), "attention_mask": mask.astype(np.int64)}


def pairs(rng):
    return {name: rng.standard_normal((ROWS, 10), np.float32) for name in ("left", "right")}


# What is exported, its inputs, the kind of its target: a class, an image or independent probabilities.
MODELS = {
    "perceptron": (Perceptron, features(16), "class"),
    "residual": (Residual, images(3, 20), "class"),
    "depthwise": (Depthwise, images(3, 24), "class"),
    "convnext": (ConvNext, images(3, 24), "class"),
    "rnn": (lambda: Recurrent(nn.RNN), features(15, 12), "class"),
    "lstm": (lambda: Recurrent(nn.LSTM), features(15, 12), "class"),
    "lstm, two layers, both directions": (lambda: Recurrent(nn.LSTM, True, 2), features(15, 12), "class"),
    "gru": (lambda: Recurrent(nn.GRU), features(15, 12), "class"),
    "gru, both directions": (lambda: Recurrent(nn.GRU, True), features(15, 12), "class"),
    "encoder": (Encoder, tokens, "class"),
    "decoder": (Decoder, features(12, 8), "class"),
    "u-net": (UNet, images(1, 12), "image"),
    "super-resolution": (SuperResolution, images(1, 10), "image"),
    "audio": (Audio, features(1, 128), "probabilities"),
    "siamese": (Siamese, pairs, "class"),
}


def targets(kind, output, inputs, rng):
    """Something to learn: classes that depend on the inputs, or numbers near what the model gives."""
    if kind == "class":
        seen = [v.reshape(ROWS, -1)[:, : 2 * CLASSES].astype(np.float32) for v in inputs.values()]
        return (seen[0] @ rng.standard_normal((seen[0].shape[1], CLASSES))).argmax(1)
    if kind == "image":
        return (np.sin(output * 3) + 0.1 * rng.standard_normal(output.shape)).astype(np.float32)
    return rng.random(output.shape).round().astype(np.float32)


def loss_of(kind, output, target):
    if kind == "class":
        return F.cross_entropy(output, target)
    if kind == "probabilities":
        return F.binary_cross_entropy(output, target)
    return F.mse_loss(output, target)


def exported(name, path):
    """The module, its data and kind, its export written to `path`."""
    make, data, kind = MODELS[name]
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    module, inputs = make().eval(), data(rng)
    for layer in module.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    # The exporter makes equal tensors one, which would then train as one.
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.rand_like(parameter)
    example = tuple(torch.from_numpy(v[:2]) for v in inputs.values())
    with torch.no_grad():
        output = module(*(torch.from_numpy(v) for v in inputs.values())).numpy()
    names = list(inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, example, str(path), input_names=names, output_names=["y"], opset_version=17, dynamo=False,
            # Batch normalisations are not folded into convolutions: their scale and shift are weights of both sides.
            training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
            dynamic_axes={name: {0: "n"} for name in [*names, "y"]},
        )
    return module, {**inputs, "target": targets(kind, output, inputs, rng)}, kind


def crepe(folder, path):
    """CREPE by onnx2torch."""
    arrays = np.load(folder / "crepe-pitch" / "train.npz")
    data = {"frames": arrays["frames"][:ROWS].astype(np.float32), "target": arrays["target"][:ROWS].astype(np.float32)}
    return converted(folder / "crepe-pitch" / "model.onnx", path), data, "probabilities"


def clipart(folder, path):
    """EfficientNet-Lite0 by onnx2torch."""
    from PIL import Image

    data = folder / "clipart"
    classes = (data / "classes.txt").read_text().split()
    rng = np.random.default_rng(1)
    files = [(file, label) for label, name in enumerate(classes) for file in sorted((data / "train" / name).iterdir())]
    files = [files[i] for i in rng.permutation(len(files))[:64]]
    pixels = [np.asarray(Image.open(f).convert("RGB").resize((224, 224)), np.float32).transpose(2, 0, 1) for f, _ in files]
    import onnx

    name = onnx.load(data / "model.onnx").graph.input[0].name
    arrays = {name: (np.stack(pixels) - 127) / 128, "target": np.array([label for _, label in files])}
    return converted(data / "model.onnx", path), arrays, "class"


def converted(model, path):
    import onnx
    import onnx2torch

    path.write_bytes(model.read_bytes())
    return onnx2torch.convert(onnx.load(model)).eval()


# How a real model is read, samples a step, the rate, the optimizer. Adam divides gradients by their own size, so that those of
# clipart that are mere rounding move weights: there PyTorch in float32 and in float64 part after one step.
REAL = {"crepe": (crepe, 16, 1e-4, "adamw"), "clipart": (clipart, 8, 3e-5, "sgd")}


def torch_losses(module, data, kind, steps, batch, lr, algorithm):
    module.eval()
    weights = [p for p in module.parameters() if p.requires_grad]
    if algorithm == "sgd":
        optimizer = torch.optim.SGD(weights, lr, momentum=0.9, nesterov=False, weight_decay=DECAY)
    else:
        optimizer = torch.optim.AdamW(weights, lr, weight_decay=DECAY)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in data.items()}
    target = tensors.pop("target")
    whole = len(target) // batch
    losses = []
    for step in range(steps):
        rows = slice(step % whole * batch, (step % whole + 1) * batch)
        loss = loss_of(kind, module(*(v[rows] for v in tensors.values())), target[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


def our_losses(arguments, folder, data, batch, lr, algorithm):
    np.savez(folder / "data.npz", **data)
    options = f"batch = {batch}\nlr = {lr}\noptimizer = \"{algorithm}\"\nweight-decay = {DECAY}\nthreads = {arguments.threads}\n"
    (folder / "options.toml").write_text(options)
    command = [arguments.binary, folder / "model.onnx", folder / "data.npz", str(arguments.steps), folder / "options.toml"]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return np.array(json.loads(done.stdout))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/examples/losses"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--only", help="models whose names contain this")
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--markdown", help="write the table there too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, failed = [], []
    for name in [*MODELS, *(REAL if arguments.data else [])]:
        if arguments.only and arguments.only not in name:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder = pathlib.Path(scratch)
            if name in REAL:
                make, batch, lr, algorithm = REAL[name]
                module, data, kind = make(arguments.data, folder / "model.onnx")
            else:
                (module, data, kind), batch, lr, algorithm = exported(name, folder / "model.onnx"), 16, 1e-3, "adamw"
            ours = our_losses(arguments, folder, data, batch, lr, algorithm)
            theirs = torch_losses(module, data, kind, arguments.steps, batch, lr, algorithm)
        apart = np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))
        count = sum(p.numel() for p in module.parameters() if p.requires_grad)
        row = [name, f"{count:,}", f"{algorithm}, {lr:g}", f"{theirs[0]:.5f}", f"{theirs[-1]:.5f}", f"{apart[1]:.0e}", f"{apart.max():.0e}"]
        rows.append(row)
        print(" | ".join(row), flush=True)
        if not apart.max() <= arguments.tolerance:
            failed.append(name)
    if arguments.markdown:
        header = ["model", "weights", "optimizer, rate", "first loss", "last loss", "apart after one step", "apart at most"]
        lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)] + ["| " + " | ".join(row) + " |" for row in rows]
        text = (
            "# Training steps against PyTorch\n\n"
            f"Written by `scripts/pytorch_steps.py --data DATA`: {arguments.steps} steps from the same weights on the same batches, with\n"
            f"`dendrite`'s training step and with PyTorch {torch.__version__.split('+')[0]}; losses of every step, and how far they are apart at most,\n"
            "relative to max(1, loss). Modules are exported by PyTorch; crepe and clipart are real files, converted for PyTorch by\n"
            "onnx2torch. Float32. AdamW divides gradients by their own size, so that on clipart those that are mere rounding move weights,\n"
            "in PyTorch as here: it is compared under SGD.\n\n" + "\n".join(lines) + "\n"
        )
        pathlib.Path(arguments.markdown).write_text(text)
    if failed:
        sys.exit(f"apart by more than {arguments.tolerance:g}: {', '.join(failed)}")


if __name__ == "__main__":
    main()
