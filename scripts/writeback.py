"""Write models back without a change and count those that come back byte for byte.

    python scripts/writeback.py [FOLDER ...]

Takes every .onnx file of the backend tests in the onnx 1.22.0 package (1,914; fetched by pip into a temporary folder)
and those below the given folders, and runs crates/onnx/examples/writeback.rs over them. Exits 1 if one differs.
"""

import pathlib
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "onnx==1.22.0"
TESTS = "onnx/backend/test/data/"
EXPECTED = 1914


def main() -> int:
    root = pathlib.Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as folder:
        here = pathlib.Path(folder)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "--dest", folder, PACKAGE], check=True)
        wheel = next(here.glob("onnx-*.whl"))
        tests = here / "tests"
        with zipfile.ZipFile(wheel) as archive:
            names = [n for n in archive.namelist() if n.startswith(TESTS)]
            archive.extractall(tests, names)
        found = sum(1 for n in names if n.endswith(".onnx"))
        print(f"{found} backend test models in {wheel.name}", flush=True)
        command = ["cargo", "run", "--release", "--quiet", "-p", "dendrite-onnx", "--example", "writeback", "--"]
        status = subprocess.run([*command, str(tests), *map(_absolute, sys.argv[1:])], cwd=root).returncode
        return status if found == EXPECTED else 1


def _absolute(folder: str) -> str:
    return str(pathlib.Path(folder).resolve())


if __name__ == "__main__":
    sys.exit(main())
