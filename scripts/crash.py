#!/usr/bin/env python3
"""Kill `dendrite grow` at random and at the worst moments, fill its disk, interrupt it, and hold what comes of it after
`--resume` against an undisturbed run, byte for byte.

    python3 scripts/crash.py [--binary target/release/dendrite] [--kills 50] [--seed 0] [--data FOLDER] [--scratch FOLDER]
                             [--only kills|signals|disk]

Needs numpy and Linux. Without --data models/letters.onnx and fixtures/letters serve; with it, FOLDER holds model.onnx and
train, val and test .npz. A process is stopped (SIGSTOP) where a moment was waited for, the moment is verified, and only
then is it killed: what is counted as "inside a save" left its temporary file behind. The disk is filled on a tmpfs, which
asks for root; else that part is skipped. Exits 1 on any difference.
"""
import argparse
import collections
import json
import os
import pathlib
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMMON = "--threads 1 --quiet"
ROWS = 500_000
LAYER = "--method hybrid --connect layer --width 8 --dendrites 2 --epochs 12 --lr 0.01"
# name: options. Those of every setting but `search` say where the learning rate starts, which is then not searched for.
SETTINGS = {
    "hybrid": LAYER,
    "pb": "--method pb --dendrites 2 --epochs 8 --lr 0.01",
    "search": "--method hybrid --connect layer --width 4 --dendrites 1 --epochs 6",
    "augmented": f"{LAYER} --set augment.noise=0.05 --no-finetune-first",
    # Many steps an epoch: what a resume has to carry over of an epoch under way adds up.
    "steps": "--dendrites 0 --epochs 3 --lr 0.01 --batch 50",
    "scoring": "--dendrites 0 --epochs 3 --lr 0.01",
    "controls": "--method hybrid --connect layer --width 4 --dendrites 1 --epochs 6 --lr 0.01 --controls all",
}
# Share of settings among the killed runs.
WEIGHTS = {"hybrid": 4, "pb": 3, "search": 1, "augmented": 1, "controls": 3}
TEMPORARY = re.compile(r"^\.(?P<of>.+)\.\d+\.\d+\.tmp$")
DEADLINE = 180

failures = []


def fail(what):
    failures.append(what)
    print(f"  FAILED: {what}", flush=True)


# What a run folder holds.


def crc32c_table():
    table = []
    for n in range(256):
        for _ in range(8):
            n = (n >> 1) ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


CRC = crc32c_table()


def masked_crc(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def records(path):
    """The payloads of an event file, framing and checksums verified."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        header = data[at : at + 12]
        if len(header) < 12 or masked_crc(header[:8]) != struct.unpack("<I", header[8:])[0]:
            raise ValueError(f"{path.name}: torn or damaged record header at byte {at} of {len(data)}")
        (length,) = struct.unpack("<Q", header[:8])
        payload, check = data[at + 12 : at + 12 + length], data[at + 12 + length : at + 16 + length]
        if len(check) < 4 or masked_crc(payload) != struct.unpack("<I", check)[0]:
            raise ValueError(f"{path.name}: torn or damaged record at byte {at} of {len(data)}")
        found.append(payload)
        at += 16 + length
    return found


def board(folder):
    """What the one event file of a run tells, without its times: the first field, a tag and eight bytes, and where a plugin
    repeats it."""
    files = sorted((folder / "tensorboard").iterdir())
    if len(files) != 1:
        raise ValueError(f"{len(files)} event files: {[f.name for f in files]}")
    return [payload[9:].replace(payload[1:9], b"") for payload in records(files[0])]


def timeless(folder):
    facts = json.loads((folder / "summary.json").read_text())
    del facts["seconds"]
    return facts


def temporary_files(folder):
    return [path for path in folder.rglob(".*") if TEMPORARY.match(path.name)]


def differences(folder, expected):
    """How a finished run folder differs from an undisturbed one."""
    found = []
    for name in ["model.onnx", "metrics.csv", "events.jsonl", "plan.toml"]:
        try:
            if (folder / name).read_bytes() != (expected / name).read_bytes():
                found.append(f"{name} differs")
        except OSError as e:
            found.append(str(e))
    for what, read in [("summary.json", timeless), ("tensorboard", board)]:
        try:
            if read(folder) != read(expected):
                found.append(f"{what} differs")
        except (OSError, ValueError) as e:
            found.append(f"{what}: {e}")
    report = folder / "report.html"
    if not report.exists() or not report.read_text().rstrip().endswith("</html>"):
        found.append("report.html is not there or not whole")
    if (folder / "checkpoints/latest.safetensors").exists():
        found.append("the checkpoint is still there")
    found += [f"{path.relative_to(folder)} was left" for path in temporary_files(folder)]
    controls = sorted(p.name for p in (expected / "controls").iterdir()) if (expected / "controls").exists() else []
    for name in controls:
        found += [f"{name}: {d}" for d in differences(folder / "controls" / name, expected / "controls" / name)]
    return found


def checkpoint_damage(path):
    """Why a checkpoint cannot be read; None if it can."""
    data = path.read_bytes()
    if len(data) < 8:
        return "shorter than its header"
    (length,) = struct.unpack("<Q", data[:8])
    try:
        header = json.loads(data[8 : 8 + length])
    except ValueError as e:
        return f"header: {e}"
    end = max((t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"), default=0)
    return None if len(data) == 8 + length + end else f"{len(data)} bytes, {8 + length + end} expected"


def events(folder):
    """The whole lines of a run that may still be going on."""
    try:
        text = (folder / "events.jsonl").read_text()
    except OSError:
        return []
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def active(folder):
    """The folder that is being written: the run's, or that of its last control."""
    controls = folder / "controls"
    if controls.exists() and (folder / "summary.json").exists():
        for name in ["sham", "longer"]:
            if (controls / name).exists():
                return controls / name
    return folder


def place(folder):
    """Where a run stood that was killed."""
    left = [TEMPORARY.match(path.name)["of"] for path in temporary_files(folder)]
    part = "control: " if active(folder) != folder else ""
    if left:
        return f"{part}inside a save of {left[0]}", True
    told = events(active(folder))
    starts = [e for e in told if e["event"] == "phase_started"]
    if not told:
        return f"{part}before the first event", False
    if told[-1]["event"] == "finished":
        return f"{part}after the last event", False
    if not starts:
        return f"{part}before the first phase", False
    if starts[-1]["kind"] == "dendrite":
        return f"{part}inside a restructure", True
    if told[-1]["event"] == "verdict":
        return f"{part}after a verdict", False
    return f"{part}while training", False


# Running, and killing.


class Study:
    def __init__(self, arguments, scratch):
        self.binary = pathlib.Path(arguments.binary).resolve()
        self.scratch = scratch
        if arguments.data:
            data = pathlib.Path(arguments.data).resolve()
            self.model = data / "model.onnx"
        else:
            data, self.model = ROOT / "fixtures/letters", ROOT / "models/letters.onnx"
        self.data = [f"--{part}={data / part}.npz" for part in ("train", "val", "test")]
        self.undisturbed = {}

    def command(self, setting, folder, *more, data=None):
        options = SETTINGS.get(setting, setting).split()
        if "--batch" not in options:
            options += ["--batch", "1000"]
        parts = [self.binary, "grow", self.model, *(data or self.data), "-o", folder, *COMMON.split(), *options, *more]
        return [str(part) for part in parts]

    def start(self, setting, folder, *more, data=None):
        return subprocess.Popen(
            self.command(setting, folder, *more, data=data),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, setting, folder, *more, data=None):
        """Run to the end; the exit code and what was said."""
        process = self.start(setting, folder, *more, data=data)
        try:
            _, said = process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            _, said = process.communicate()
            said += f"it went on for more than {DEADLINE} s"
        return process.returncode, said

    def reference(self, setting, data=None):
        """The folder of the undisturbed run of a setting, its exit code and how long it took."""
        if setting not in self.undisturbed:
            folder = self.scratch / f"undisturbed-{setting}"
            began = time.monotonic()
            code, said = self.finish(setting, folder, data=data)
            took = time.monotonic() - began
            if code not in (0, 1):
                sys.exit(f"the undisturbed run of '{setting}' failed: {said}")
            wrong = differences(folder, folder)
            if wrong:
                sys.exit(f"the undisturbed run of '{setting}' is not whole: {wrong}")
            again = self.scratch / "again"
            self.finish(setting, again, data=data)
            if wrong := differences(again, folder):
                fail(f"'{setting}' does not repeat itself undisturbed: {wrong}")
            shutil.rmtree(again)
            kinds = collections.Counter(e["event"] for e in events(folder))
            print(f"undisturbed {setting}: {took:.1f} s, exit {code}, {dict(kinds)}", flush=True)
            self.undisturbed[setting] = (folder, code, took)
        return self.undisturbed[setting]


def stopped(process):
    """Stop a process and wait until it stands still."""
    os.kill(process.pid, signal.SIGSTOP)
    while True:
        try:
            state = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return
        if state in "TZX":
            return


def halt_when(process, condition, limit=DEADLINE):
    """Stop a process as soon as a condition holds, and still does when it stands. False if it ended before."""
    until = time.monotonic() + limit
    while process.poll() is None and time.monotonic() < until:
        if not condition():
            continue
        stopped(process)
        if process.poll() is None and condition():
            return True
        # It may have ended since, and is then known by that.
        process.send_signal(signal.SIGCONT)
    return False


def saving(folder, name, skip):
    """A condition: a temporary file of `name` exists, for the `skip`-th time at least."""
    seen = set()
    places = [folder / "checkpoints", folder]
    places += [folder / "controls" / c / "checkpoints" for c in ("longer", "sham")]
    places += [folder / "controls" / c for c in ("longer", "sham")]

    def condition():
        for place in places:
            try:
                names = os.listdir(place)
            except OSError:
                continue
            for found in names:
                if found.endswith(".tmp") and TEMPORARY.match(found)["of"] == name:
                    seen.add(found)
                    if len(seen) > skip:
                        return True
        return False

    return condition


def restructuring(folder, skip):
    """A condition: a dendrite phase is under way, the `skip`-th at least."""

    def condition():
        told = events(active(folder))
        starts = [e for e in told if e["event"] == "phase_started"]
        return bool(starts) and starts[-1]["kind"] == "dendrite" and sum(s["kind"] == "dendrite" for s in starts) > skip

    return condition


def kill_study(study, kills, rng):
    print(f"\n{kills} runs are killed", flush=True)
    aims = ["time"] * 8 + ["latest.safetensors"] * 6 + ["restructure"] * 4
    aims += ["model.onnx", "summary.json", "report.html", "config.toml"]
    settings = [name for name, weight in WEIGHTS.items() for _ in range(weight)]
    places, per_run = collections.Counter(), collections.Counter()
    worst = 0
    by_setting = collections.Counter()
    for number in range(kills):
        setting = settings[number % len(settings)]
        expected, code, took = study.reference(setting)
        folder = study.scratch / f"killed-{number}"
        done, series = 0, rng.choice([1, 1, 1, 2, 3, 4])
        story = []
        for attempt in range(series):
            aim = aims[(number * 7 + attempt) % len(aims)] if attempt == 0 else rng.choice(aims)
            interval = rng.choice(["0s", "0s", "1s"]) if aim != "latest.safetensors" else "0s"
            more = ["--checkpoint-every", interval] + (["--resume"] if attempt else [])
            process = study.start(setting, folder, *more)
            delay = rng.uniform(0, took)
            if aim == "time":
                # Now and then while the program starts, or a resume does.
                time.sleep(delay if rng.random() < 0.75 else rng.uniform(0, 0.3))
            elif aim == "restructure":
                if halt_when(process, restructuring(folder, rng.choice([0, 0, 1]))):
                    # Somewhere within, not only at its beginning.
                    process.send_signal(signal.SIGCONT)
                    time.sleep(rng.uniform(0, 0.05))
            else:
                skip = rng.randrange(0, 120) if aim == "latest.safetensors" else 0
                halt_when(process, saving(folder, aim, skip))
            process.kill()
            process.communicate()
            if process.returncode != -signal.SIGKILL:
                # It had ended before; what follows finds a complete run.
                story.append("not killed: it had ended")
                break
            at, worst_moment = place(folder) if folder.exists() else ("before the folder was there", False)
            places[at] += 1
            worst += worst_moment
            done += 1
            by_setting[setting] += 1
            story.append(at)
        per_run[done] += 1
        code_after, said = study.finish(setting, folder, "--resume")
        wrong = differences(folder, expected)
        if code_after != code:
            wrong.append(f"exit {code_after}, undisturbed {code}: {said.strip()}")
        if wrong:
            fail(f"run {number} ({setting}; {', then '.join(story)}): {'; '.join(wrong)}")
        else:
            shutil.rmtree(folder)
            print(f"  {number}: {setting}: {', then '.join(story)}: same bytes", flush=True)
    total = sum(places.values())
    print(f"\n{kills} runs, {total} kills, {worst} of them inside a save or a restructure ({100 * worst / max(total, 1):.0f} %)")
    for at, count in sorted(places.items(), key=lambda item: -item[1]):
        print(f"  {count:4} {at}")
    print("  kills by setting: " + ", ".join(f"{name} {count}" for name, count in by_setting.items()))
    print("  kills a run: " + ", ".join(f"{count} runs with {times}" for times, count in sorted(per_run.items())))
    if worst < 0.4 * total:
        fail(f"only {worst} of {total} kills were inside a save or a restructure")


def chain_study(study, rng):
    """One run that is killed again and again until it ends, a checkpoint after every step."""
    expected, code, _ = study.reference("steps")
    folder, times = study.scratch / "chain", 0
    while True:
        more = ["--checkpoint-every", "0s"] + (["--resume"] if times else [])
        process = study.start("steps", folder, *more)
        try:
            process.communicate(timeout=rng.uniform(0.4, 0.8))
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            times += 1
    wrong = differences(folder, expected)
    if wrong or process.returncode != code:
        fail(f"killed {times} times in a row: exit {process.returncode}, {wrong}")
    else:
        print(f"  one run killed {times} times in a row: same bytes", flush=True)


# Ctrl-C.


def large(study, scratch, rows):
    """The data, repeated to so many rows: large everywhere, and large only where scores are taken."""
    import numpy as np

    found = {}
    for part in study.data:
        name, path = part.split("=", 1)
        with np.load(path) as arrays:
            factor = -(-rows // len(arrays["target"]))
            repeated = {key: np.concatenate([value] * factor)[:rows] for key, value in arrays.items()}
        found[name] = scratch / f"large{name}.npz"
        np.savez(found[name], **repeated)
    # The same data decide, too, where scoring is to take long.
    train, val = found["--train"], found["--val"]
    return [f"--train={train}", f"--val={val}"], [f"--train={study.data[0].split('=', 1)[1]}", f"--val={train}"]


def in_phase(folder, kind):
    def condition():
        starts = [e for e in events(folder) if e["event"] == "phase_started"]
        return bool(starts) and starts[-1]["kind"] == kind

    return condition


def signal_study(study, rng):
    print("\ninterrupts (seconds from the signal to the end of the process)", flush=True)
    big, scored = large(study, study.scratch, ROWS)
    # what: setting, data, phase to wait for, seconds within it
    short, long = None, (0.0, 1.5)
    dendrites = f"{LAYER} --no-finetune-first"
    cases = [
        ("training", "hybrid", None, "finetune", (0.0, 0.2)),
        ("training, dendrites there", "hybrid", None, "neuron", (0.0, 0.2)),
        ("restructure", "hybrid", None, "dendrite", (0.0, 0.02)),
        ("learning-rate search", "search", None, "finetune", (0.0, 0.1)),
        ("large epoch", LAYER, big, "finetune", long),
        ("large validation", "scoring", scored, "finetune", (0.0, 0.3)),
        ("large validation, learning-rate search", f"{SETTINGS['search']} --tries 1", scored, "finetune", long),
        ("large learning-rate search", f"{SETTINGS['search']} --tries 1", big, "finetune", long),
        ("large dendrite phase", dendrites, big, "dendrite", (0.0, 6.0)),
        ("large dendrite phase, pb", "--method pb --lr 0.01 --no-finetune-first", big, "dendrite", (0.0, 6.0)),
        ("large, before the first phase", LAYER, big, None, (0.6, 2.0)),
    ]
    for number, (what, setting, data, phase, within) in enumerate(cases):
        for sent in (signal.SIGINT, signal.SIGTERM):
            latencies = []
            for repeat in range(2 if data is None else 3):
                folder = study.scratch / f"interrupted-{number}-{repeat}"
                process = study.start(setting, folder, "--checkpoint-every", "1s", data=data)
                condition = in_phase(folder, phase) if phase else (lambda: True)
                while process.poll() is None and not condition():
                    time.sleep(0.002)
                time.sleep(rng.uniform(*within))
                began = time.monotonic()
                process.send_signal(sent)
                _, said = process.communicate(timeout=DEADLINE)
                latency = time.monotonic() - began
                # Before it is caught, while data are being opened, the signal ends the process itself.
                early = process.returncode == -sent and not folder.exists()
                resumed = setting in SETTINGS
                if process.returncode in (0, 1) and resumed:
                    # It had ended before.
                    shutil.rmtree(folder)
                    continue
                if process.returncode != 130 and not early:
                    fail(f"{what}, {sent.name}: exit {process.returncode}: {said.strip()}")
                latencies.append(latency)
                if temporary_files(folder):
                    fail(f"{what}, {sent.name}: temporary files were left")
                if resumed:
                    expected, code, _ = study.reference(setting, data)
                    after, said = study.finish(setting, folder, "--resume", data=data)
                    if wrong := differences(folder, expected):
                        fail(f"{what}, {sent.name}, resumed: {wrong} {said.strip()}")
                shutil.rmtree(folder, ignore_errors=True)
            if latencies:
                print(f"  {what}, {sent.name}: " + ", ".join(f"{l:.2f}" for l in latencies), flush=True)
                if max(latencies) >= 1:
                    fail(f"{what}, {sent.name}: took {max(latencies):.2f} s to end")
            else:
                print(f"  {what}, {sent.name}: every run had ended before", flush=True)


# Full disks.


class FullDisk:
    """A small tmpfs."""

    def __init__(self, at, size="2m"):
        self.at = at
        at.mkdir()
        self.mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(at)], capture_output=True
        ).returncode == 0

    def fill(self, but=0):
        """Take what is left, to the last byte `but` so many."""
        with open(self.at / "filler", "ab", buffering=0) as filler:
            for block in (1 << 16, 1 << 12, 1):
                try:
                    while True:
                        filler.write(b"\0" * block)
                except OSError:
                    pass
            filler.truncate(filler.tell() - but)

    def free(self):
        (self.at / "filler").unlink()

    def close(self):
        if self.mounted:
            subprocess.run(["umount", str(self.at)], check=True)


def disk_study(study):
    print("\nfull disks", flush=True)
    setting = "hybrid"
    expected, code, _ = study.reference(setting)
    verdicts = sum(e["event"] == "verdict" for e in events(expected))
    at = study.scratch / "tmpfs"
    probe = FullDisk(at)
    if not probe.mounted:
        print("  skipped: a tmpfs cannot be mounted here (it asks for root)")
        return
    probe.close()
    at.rmdir()

    def count(folder, event):
        return sum(e["event"] == event for e in events(folder))

    # what is full: files one of which the error has to name, when the disk fills up, and the checkpoint interval
    cases = {
        "a checkpoint": (["latest.safetensors"], lambda f: count(f, "epoch") >= 5, "0s"),
        "the first checkpoint": (["latest.safetensors"], lambda f: count(f, "phase_started") >= 1, "0s"),
        "a checkpoint after a verdict": (["latest.safetensors"], lambda f: count(f, "verdict") == 1, "60s"),
        "model.onnx": (["model.onnx"], lambda f: count(f, "verdict") == verdicts, "60s"),
        "summary.json": (["summary.json"], lambda f: (f / "model.onnx").exists(), "60s"),
        "report.html": (["report.html"], lambda f: (f / "model.onnx").exists(), "60s"),
        "what comes next": (["events.jsonl", "metrics.csv", "tfevents", "latest.safetensors"], lambda f: count(f, "epoch") >= 1, "60s"),
    }
    too_late = {
        "model.onnx": lambda f: (f / "model.onnx").exists(),
        "summary.json": lambda f: (f / "summary.json").exists(),
        "report.html": lambda f: (f / "summary.json").exists(),
        "a checkpoint after a verdict": lambda f: count(f, "phase_started") > 1,
    }
    for what, (names, condition, interval) in cases.items():
        for attempt in range(20):
            disk = FullDisk(at)
            folder = at / "run"
            process = study.start(setting, folder, "--checkpoint-every", interval)
            halted = halt_when(process, lambda: condition(folder))
            if halted and not (what in too_late and too_late[what](folder)):
                break
            process.kill()
            process.communicate()
            disk.close()
            at.rmdir()
        else:
            fail(f"{what}: the moment was never met")
            continue
        # The summary and an event still have room, the page has not: the moment between them is too short to be met.
        disk.fill(but=12 << 10 if what == "report.html" else 0)
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate(timeout=DEADLINE)
        verify_full(study, what, names, folder, process.returncode, said, expected)
        disk.free()
        resume_full(study, what, setting, folder, expected, code)
        disk.close()
        at.rmdir()
    # Each log alone on the full disk: appending needs no room until a block is full.
    for name in ["events.jsonl", "metrics.csv", "tensorboard"]:
        what = f"{name} alone"
        disk = FullDisk(at)
        folder = study.scratch / "full-log"
        folder.mkdir()
        if name == "tensorboard":
            (at / name).mkdir()
        (folder / name).symlink_to(at / name)
        process = study.start(setting, folder)
        if not halt_when(process, lambda: count(folder, "epoch") >= 1):
            fail(f"{what}: the moment was never met")
        disk.fill()
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate(timeout=DEADLINE)
        names = ["tfevents"] if name == "tensorboard" else [name]
        if process.returncode == code and name == "metrics.csv":
            print(f"  {what}: a run writes less than a block of it: nothing to refuse", flush=True)
        else:
            verify_full(study, what, names, folder, process.returncode, said, expected)
        disk.free()
        resume_full(study, what, setting, folder, expected, code)
        shutil.rmtree(folder)
        disk.close()
        at.rmdir()
    # Full from the start, and full when a run is to go on.
    disk = FullDisk(at)
    disk.fill()
    folder = at / "run"
    status, said = study.finish(setting, folder)
    names = ["config.toml", "metrics.csv", "tfevents", "checkpoints", "run"]
    verify_full(study, "everything", names, folder, status, said, expected)
    disk.free()
    process = study.start(setting, folder, "--resume", "--checkpoint-every", "0s")
    if not halt_when(process, lambda: count(folder, "epoch") >= 5):
        fail("full on resume: the moment was never met")
    process.kill()
    process.communicate()
    disk.fill()
    status, said = study.finish(setting, folder, "--resume")
    names = ["config.toml", "plan.toml", "latest.safetensors", "events.jsonl", "metrics.csv", "tfevents"]
    verify_full(study, "the disk on resume", names, folder, status, said, expected)
    disk.free()
    resume_full(study, "the disk on resume", setting, folder, expected, code)
    disk.close()
    at.rmdir()


def verify_full(study, what, names, folder, status, said, expected):
    wrong = []
    error = next((line for line in said.splitlines() if line.startswith("error:")), "")
    if status != 2:
        wrong.append(f"exit {status}")
    if not any(name in error for name in names):
        wrong.append(f"the error names none of {names}")
    if "hint:" not in said:
        wrong.append("no remedy")
    if "panicked" in said:
        wrong.append("a panic")
    checkpoint = folder / "checkpoints/latest.safetensors"
    if checkpoint.exists() and (damage := checkpoint_damage(checkpoint)):
        wrong.append(f"the checkpoint: {damage}")
    wrong += [f"{path.relative_to(folder)} was left" for path in temporary_files(folder)]
    model = folder / "model.onnx"
    if model.exists() and model.read_bytes() != (expected / "model.onnx").read_bytes():
        wrong.append("model.onnx is half written")
    for name, whole in [("summary.json", json.loads), ("report.html", lambda t: t[t.rindex("</html>") :])]:
        try:
            if (folder / name).exists():
                whole((folder / name).read_text())
        except ValueError:
            wrong.append(f"{name} is half written")
    message = " | ".join(said.strip().splitlines()).replace(str(study.scratch), "")
    if wrong:
        fail(f"no room for {what}: {'; '.join(wrong)}: {message}")
    else:
        print(f"  no room for {what}: {message}", flush=True)


def resume_full(study, what, setting, folder, expected, code):
    status, said = study.finish(setting, folder, "--resume")
    wrong = differences(folder, expected)
    if status != code:
        wrong.append(f"exit {status}: {said.strip()}")
    if wrong:
        fail(f"no room for {what}, resumed: {'; '.join(wrong)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/dendrite"))
    parser.add_argument("--kills", type=int, default=50, help="runs that are killed, each up to four times")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", help="a folder with model.onnx, train.npz, val.npz and test.npz")
    parser.add_argument("--scratch", help="where runs are written; on a disk, a save takes long enough to be hit")
    parser.add_argument("--only", choices=["kills", "signals", "disk"])
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    began = time.monotonic()
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="dendrite-crash-", dir=arguments.scratch))
    study = Study(arguments, scratch)
    try:
        if arguments.only in (None, "kills"):
            kill_study(study, arguments.kills, rng)
            chain_study(study, rng)
        if arguments.only in (None, "signals"):
            signal_study(study, rng)
        if arguments.only in (None, "disk"):
            disk_study(study)
    finally:
        subprocess.run(["umount", str(scratch / "tmpfs")], capture_output=True)
        if failures:
            print(f"what failed is kept in {scratch}")
        else:
            shutil.rmtree(scratch, ignore_errors=True)
    print(f"\n{time.monotonic() - began:.0f} s; " + (f"{len(failures)} failures:" if failures else "no difference"))
    for failure in failures:
        print(f"  {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
