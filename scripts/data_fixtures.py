"""Writes fixtures/data: small data sets as numpy, pandas, pyarrow, safetensors and PIL write them.

Needs numpy, pyarrow, safetensors and pillow. Values are such that tests can compute them: element i of an array counts
from 0 in row-major order unless said otherwise.
"""

import pathlib
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "data"


def counted(shape, dtype):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def arrays():
    x = counted((6, 4), np.float32)
    target = np.array([0, 1, 2, 0, 1, 2], np.int64)
    np.savez(HERE / "stored.npz", x=x, target=target)
    np.savez_compressed(HERE / "deflated.npz", x=x, target=target, f=np.asfortranarray(x))
    kinds = {t: counted((6, 4), t) for t in ("f2", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")}
    np.savez(
        HERE / "kinds.npz",
        big=x.astype(">f4"),
        big_integers=x.astype(">i2"),
        fortran=np.asfortranarray(counted((6, 2, 2), np.float32)),
        fortran_big=np.asfortranarray(counted((6, 2, 2), ">f8")),
        bools=(counted((6, 4), "i8") % 2).astype(bool),
        **kinds,
    )
    np.savez(
        HERE / "unusable.npz",
        x=x,
        texts=np.array(["a", "b", "a", "b", "a", "b"]),
        objects=np.array([1, "a", None, 2, 3, 4], dtype=object),
        records=np.zeros(6, dtype=[("a", "f4"), ("b", "i4")]),
        complex=x.astype(np.complex64),
    )
    folder = HERE / "folder"
    folder.mkdir()
    np.save(folder / "x.npy", x)
    np.save(folder / "target.npy", target)
    save_file({"x": x.astype(np.float16), "target": target}, HERE / "half.safetensors")


def tables():
    table = pa.table({
        "a": pa.array([0.5, 1.5, 2.5, 3.5], pa.float64()),
        "b": pa.array([1, 2, 3, 4], pa.int32()),
        "c": pa.array([True, False, True, False], pa.bool_()),
        "v": pa.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.0], [9.0, 10.0, 11.0]], pa.list_(pa.float32())),
        "label": pa.array(["cat", "dog", "cat", "bird"], pa.string()),
        "target": pa.array([0, 1, 0, 2], pa.int64()),
    })
    for codec in ("none", "snappy", "gzip", "zstd", "lz4"):
        pq.write_table(table, HERE / f"{codec}.parquet", compression=codec, row_group_size=3)
    pq.write_table(table, HERE / "plain.parquet", use_dictionary=False, version="1.0", data_page_version="2.0")
    fixed = pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"x": fixed, "u": pa.array([1, 2], pa.uint8())}), HERE / "fixed.parquet")
    pq.write_table(pa.table({"x": pa.array([1.0, None, 3.0])}), HERE / "null.parquet")
    pq.write_table(pa.table({"x": pa.array([[1.0], [1.0, 2.0]])}), HERE / "ragged.parquet")
    half = pa.array(np.array([0.5, -2.0], np.float16))
    pq.write_table(pa.table({"x": half, "big": pa.array([2**63, 2**64 - 1], pa.uint64())}), HERE / "half.parquet")


def pictures():
    rng = np.random.default_rng(1)

    def smooth(height, width, channels):
        y, x = np.mgrid[0:height, 0:width]
        planes = [127 + 120 * np.sin(x / (3 + c) + y / (7 - c)) for c in range(channels)]
        noisy = np.stack(planes, -1) + rng.normal(0, 20, (height, width, channels))
        return np.clip(noisy, 0, 255).astype(np.uint8)

    colour, gray = Image.fromarray(smooth(37, 53, 3)), Image.fromarray(smooth(20, 15, 1)[..., 0])
    for name in ("ant", "bee"):
        (HERE / "images" / name).mkdir(parents=True)
    colour.save(HERE / "images" / "ant" / "0.png")
    colour.save(HERE / "images" / "ant" / "1.jpg", quality=95)
    gray.save(HERE / "images" / "bee" / "0.png")
    colour.convert("P").save(HERE / "images" / "bee" / "1.gif")
    colour.save(HERE / "images" / "bee" / "2.bmp")
    colour.save(HERE / "images" / "bee" / "3.webp", lossless=True)
    expected = {"gray_of_colour": np.asarray(colour.convert("L"))}
    for size in ((24, 24), (90, 70)):  # width, height
        for name, filter in (("nearest", 0), ("bilinear", 2), ("bicubic", 3)):
            expected[f"{name}_{size[1]}_{size[0]}"] = np.asarray(colour.resize(size, filter))
    # torchvision: Resize(16) of the shorter side, CenterCrop(14).
    resized = colour.resize((int(16 * 53 / 37), 16), 2)
    left, top = round((resized.width - 14) / 2), round((16 - 14) / 2)
    expected["crop_14_of_16"] = np.asarray(resized.crop((left, top, left + 14, top + 14)))
    expected["jpeg"] = np.asarray(Image.open(HERE / "images" / "ant" / "1.jpg").convert("RGB"))
    np.savez_compressed(HERE / "resized.npz", **expected)


if __name__ == "__main__":
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir(parents=True)
    arrays()
    tables()
    pictures()
