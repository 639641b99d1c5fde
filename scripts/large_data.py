#!/usr/bin/env python3
"""Whether memory stays flat: train on a small and on a large data set of the same kind, and print the peak of each.

    python3 scripts/large_data.py [--binary target/release/dendrite] [--small 50] [--large 5000] [--folder FOLDER]

Sizes are in MB. Needs numpy and room for the large set, which is removed afterwards. Rows are those of
fixtures/japanese-vowels with noise; the model is models/jv_cnn4.onnx.
"""
import argparse
import os
import pathlib
import subprocess
import tempfile
import time
import zipfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
BLOCK = 4096


def write(path, megabytes):
    """An .npz as numpy.savez writes it, row by row."""
    source = np.load(ROOT / "fixtures/japanese-vowels/train.npz")
    x, target = source["x"], source["target"]
    rows = megabytes * 1_000_000 // (x[0].nbytes + 8)
    picks = np.random.default_rng(0).integers(0, len(x), rows)
    noise = np.random.default_rng(1)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with archive.open("x.npy", "w", force_zip64=True) as member:
            header = {"descr": "<f4", "fortran_order": False, "shape": (rows, *x.shape[1:])}
            np.lib.format.write_array_header_2_0(member, header)
            for start in range(0, rows, BLOCK):
                block = x[picks[start : start + BLOCK]]
                block = block + noise.normal(0, 0.05 * x.std(), block.shape)
                member.write(block.astype("<f4").tobytes())
        with archive.open("target.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, target[picks].astype(np.int64))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/dendrite"))
    parser.add_argument("--small", type=int, default=50)
    parser.add_argument("--large", type=int, default=5000)
    parser.add_argument("--folder", help="where the data sets go for the while")
    arguments = parser.parse_args()
    print("data, MB | rows | peak memory, MB | seconds")
    for megabytes in (arguments.small, arguments.large):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
            train = pathlib.Path(scratch) / "train.npz"
            rows = write(train, megabytes)
            command = [arguments.binary, "grow", str(ROOT / "models/jv_cnn4.onnx"), "--train", str(train)]
            command += ["--val", str(ROOT / "fixtures/japanese-vowels/val.npz"), "-o", scratch + "/run", "--quiet"]
            command += ["--method", "hybrid", "--dendrites", "1", "--tries", "1", "--epochs", "1", "--lr", "1e-3"]
            start = time.time()
            process = subprocess.Popen(command + ["--threads", "2"], stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            if os.waitstatus_to_exitcode(status) not in (0, 1):
                raise SystemExit(f"{' '.join(command)} failed")
            print(f"{megabytes} | {rows:,} | {usage.ru_maxrss / 1024:.0f} | {time.time() - start:.0f}", flush=True)


if __name__ == "__main__":
    main()
