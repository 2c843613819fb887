"""The fuzzers find what is wrong, and find nothing; `python -m parity_tests.fuzz` is the long run."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity_tests.fuzz import guided, run, targets
from parity_tests.fuzz.edits import EDITS, broken
from prototxt.errors import InputError

ROOT = Path(__file__).parents[1]


def fuzzed(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "parity_tests.fuzz",
        "--seed",
        "0",
        "--out",
        str(folder / "found"),
        *arguments,
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)


def test_every_reader_takes_or_refuses(tmp_path: Path) -> None:
    """The same cases each time, a few hundred of each kind."""
    done = fuzzed("--minutes", "10", "--cases", "150", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_minute_of_all(tmp_path: Path) -> None:
    done = fuzzed("--minutes", "1", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(targets.TARGETS)), st.binary(max_size=200), EDITS)
def test_a_case_is_the_same_each_time(name: str, data: bytes, edits: list) -> None:
    is_text = targets.TARGETS[name].is_text
    assert broken(data, edits, is_text) == broken(data, json.loads(json.dumps(edits)), is_text)


FAULTS = {
    "KeyError": lambda path: {}["x"],
    "signal 9": lambda path: os.kill(os.getpid(), 9),
    "signal 11 at parity_tests/test_fuzz.py": lambda path: os.kill(os.getpid(), 11),
    "status 7": lambda path: os._exit(7),
    "took too long": lambda path: [None for _ in iter(time.time, 0)],
    "too long": lambda path: time.sleep(100),
    "MB": lambda path: bytes(b"x" * (400 << 20)),
    "several lines": lambda path: (_ for _ in ()).throw(_Lines()),
}


def test_a_death_names_whose_fault_it_is() -> None:
    frames = ["Fatal Python error: Segmentation fault", "", "Current thread 0x1 (most recent call first):"]
    frames += [
        '  File "/lib/onnxruntime/capi/session.py", line 287 in run',
        '  File "/x/check.py", line 3 in run',
    ]
    assert run.last_place(frames) == " at capi/session.py:287" and run.last_place(frames[:3]) == ""


def test_guided_by_coverage(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    done = fuzzed("--guided", "--target", "datum", "--minutes", "1", "--cases", "50", folder=tmp_path)
    assert done.returncode == 0 and "datum: 50 cases" in done.stdout, done.stdout + done.stderr


def test_guided_needs_atheris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="breaks settings, not bytes"):
        guided.guided_all(["settings"], 1, 0, tmp_path, 1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install atheris"):
        guided.guided_all(["npz"], 1, 0, tmp_path, 1)


class _Lines(InputError):
    def __str__(self) -> str:
        return "a\nb"


@pytest.mark.parametrize("kind", FAULTS)
def test_what_goes_wrong_is_found(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file holds an x, it goes wrong; the case that is kept has no edit too many."""

    def attempt(path: Path) -> None:
        if b"x" in path.read_bytes():
            next(FAULTS[kind](path)) if kind == "several lines" else FAULTS[kind](path)

    monkeypatch.setattr(run, "MOST_SECONDS", 0.3 if kind == "took too long" else 60.0)
    monkeypatch.setattr(run, "MOST_WAIT", 3.0 if kind == "too long" else 120.0)
    target = targets.Target(
        lambda: [b"a" * 9],
        attempt,
        ".bin",
        breaks=lambda data, edits, is_text: data + bytes(value & 255 for _, _, value in edits),
    )
    monkeypatch.setitem(targets.TARGETS, "made up", target)
    monkeypatch.setattr(
        run, "_case", lambda seeds, seed, number: (seeds[0], [(4, 0, 0)] * 3 + [(1, 0, ord("x"))] + [])
    )
    outcome = run.fuzz("made up", 60, 0, tmp_path / "out", most_cases=2)
    (what,) = outcome.found
    assert kind in what
    path = outcome.found[what]
    assert path.read_bytes() == b"a" * 9 + b"x"
    assert json.loads(path.with_name(f"{path.name}.json").read_text())["edits"] == [[1, 0, ord("x")]]


@pytest.mark.slow
def test_killed_at_40_instants() -> None:
    command = [sys.executable, "-m", "parity_tests.fuzz.kill", "--kills", "40"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0 and "40 of 40 kills survived" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_full_disks() -> None:
    if subprocess.run(["unshare", "--map-root-user", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    command = [sys.executable, "-m", "parity_tests.fuzz.full_disk", "--rooms", "8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0 and done.stdout.count("all ended with the exact weights") == 2, done.stderr


@pytest.mark.slow
def test_memory_stays_flat() -> None:
    command = [sys.executable, "-m", "parity_tests.fuzz.many_images", "--images", "2000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0 and "flat" in done.stdout, done.stdout + done.stderr
