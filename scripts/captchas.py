#!/usr/bin/env python3
"""Teach a published reader of captchas another kind of captcha, by the texts alone (`--loss ctc`).

    python3 scripts/captchas.py [--binary target/release/dendrite] [--packages FOLDER] [--rows 600] [--seeds 3] [--threads 2]

Needs numpy, pillow, onnxruntime and pip. The model is captcha_crnn.onnx of the package captcha-whisperer 0.1.0, fetched into
--packages (else a temporary folder). The captchas are drawn here with Pillow's own font: four to six digits and capitals, turned,
crossed by lines, in noise. With dendrites: --options "--method gd --connect layer --width 32 --dendrites 1 --tries 1
--no-finetune-first --sites logits --lr 3e-4 --epochs 3". Prints the share of texts read rightly before and after, by the stock onnxruntime, over seeds.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
import onnxruntime as ort
from PIL import Image, ImageDraw, ImageFont

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "captcha-whisperer==0.1.0"
LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
BLANK, LONGEST = len(LETTERS), 6
WIDTH, HEIGHT = 160, 60


def fetched(folder):
    """The model, from the package in `folder`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    if not list(folder.glob("captcha_whisperer*.whl")):
        subprocess.run(command, check=True)
    with zipfile.ZipFile(next(folder.glob("captcha_whisperer*.whl"))) as wheel:
        name = next(n for n in wheel.namelist() if n.endswith("captcha_crnn.onnx"))
        path = folder / "captcha_crnn.onnx"
        path.write_bytes(wheel.read(name))
    return path


def captcha(text, rng):
    """A picture [3, 60, 160] of BGR numbers from 0 to 255, as the model takes it."""
    shade = lambda low, high: tuple(int(v) for v in rng.integers(low, high, 3))
    image = Image.new("RGB", (WIDTH, HEIGHT), shade(190, 256))
    step = (WIDTH - 16) / len(text)
    for place, letter in enumerate(text):
        tile = Image.new("RGBA", (50, 56))
        font = ImageFont.load_default(size=int(rng.integers(28, 40)))
        ImageDraw.Draw(tile).text((25, 28), letter, font=font, fill=shade(0, 130), anchor="mm")
        tile = tile.rotate(float(rng.uniform(-25, 25)), resample=Image.BILINEAR)
        at = (int(8 + step * (place + 0.5) - 25 + rng.uniform(-3, 3)), int(rng.uniform(-4, 8)))
        image.paste(tile, at, tile)
    draw = ImageDraw.Draw(image)
    for _ in range(3):
        ends = rng.uniform(0, 1, 4) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
        draw.line([float(v) for v in ends], fill=shade(0, 200), width=1)
    pixels = np.asarray(image, np.float32) + rng.normal(0, 12, (HEIGHT, WIDTH, 3))
    return np.clip(pixels, 0, 255)[:, :, ::-1].transpose(2, 0, 1).astype(np.uint8)


def captchas(rows, seed):
    """Pictures, and the numbers of their letters filled up with -1."""
    rng = np.random.default_rng(seed)
    target = np.full((rows, LONGEST), -1, np.int64)
    for row in target:
        length = rng.integers(4, LONGEST + 1)
        row[:length] = rng.integers(0, len(LETTERS), length)
    images = [captcha([LETTERS[c] for c in row if c >= 0], rng) for row in target]
    return {"image": np.stack(images), "target": target}


def read_rightly(model, data):
    """The share of texts that the best class of every step spells."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    right = 0
    for start in range(0, len(data["target"]), 50):
        best = session.run(None, {"image": data["image"][start : start + 50].astype(np.float32)})[0].argmax(2).T
        for steps, target in zip(best, data["target"][start:]):
            spelt = [c for i, c in enumerate(steps) if c != BLANK and (i == 0 or c != steps[i - 1])]
            right += spelt == [c for c in target if c >= 0]
    return right / len(data["target"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/dendrite"))
    parser.add_argument("--packages", type=pathlib.Path)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--options", default="--dendrites 0 --lr 3e-4 --epochs 3", help="of `dendrite grow`")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        model = fetched(arguments.packages or scratch)
        parts = {"train": captchas(arguments.rows, 1), "val": captchas(400, 2), "test": captchas(400, 3)}
        for name, arrays in parts.items():
            np.savez(scratch / f"{name}.npz", **arrays)
        before = read_rightly(model, parts["test"])
        after = []
        for seed in range(arguments.seeds):
            command = [arguments.binary, "grow", str(model), "-o", str(scratch / f"run{seed}"), "--loss", "ctc", "--blank", "-1"]
            command += [f"--train={scratch / 'train.npz'}", f"--val={scratch / 'val.npz'}", "--seed", str(seed)]
            command += ["--threads", str(arguments.threads)] + arguments.options.split()
            if subprocess.run(command).returncode not in (0, 1):
                sys.exit(f"failed: {' '.join(command)}")
            after.append(read_rightly(scratch / f"run{seed}" / "model.onnx", parts["test"]))
    mean = sum(after) / len(after)
    print(f"texts read rightly: {before:.1%} before, {mean:.1%} after ({min(after):.1%} to {max(after):.1%}, {len(after)} seeds)")


if __name__ == "__main__":
    main()
