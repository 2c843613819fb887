"""Coverage-guided fuzzing: `python -m parity_tests.fuzz --guided`, by atheris (`pip install atheris`).

libFuzzer breaks the seeds and keeps what reaches new branches of `prototxt`, `weights` and `runtime`. What is tried,
and within which limits, is as elsewhere: `targets` and `run.try_file`. It ends its process, so each target has its own.
"""

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

# Nothing of the rooms is imported here: what is, before atheris looks on, is not seen by it.
ROOMS = ["prototxt", "weights", "runtime", "port.training", "port.voc"]


def guided_all(names: Sequence[str], seconds: float, seed: int, out: Path, most_cases: int) -> int:
    """Fuzz one target after the other, tell of each, and the number of findings.

    Raises:
        InputError: atheris is not installed, or a target whose edits are no bytes.
    """
    from parity_tests.fuzz.targets import TARGETS, broken
    from prototxt.errors import InputError, need_packages

    fixed = [name for name in names if TARGETS[name].breaks is not broken]
    if fixed:
        raise InputError(f'--guided: "{fixed[0]}" breaks settings, not bytes: choose another target')
    need_packages("atheris", purpose="--guided")
    found = 0
    for name in names:
        found += _guided(name, seconds / len(names), seed, out, most_cases)
    print(f"{found} findings{f' in {out}' if found else ''}")
    return found


def _guided(name: str, seconds: float, seed: int, out: Path, most_cases: int) -> int:
    from parity_tests.fuzz.run import last_place

    with tempfile.TemporaryDirectory() as folder:
        limits = [
            f"-max_total_time={int(seconds)}",
            f"-runs={min(most_cases, 2**31 - 1)}",
            f"-seed={seed % 2**31}",
        ]
        command = [sys.executable, "-m", __name__, name, str(out), folder, *limits]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        tried = re.findall(r"stat::number_of_executed_units: (\d+)|^#(\d+)\t", done.stderr, re.M)
        told = [line[6:] for line in done.stdout.splitlines() if line.startswith("found ")]
        if done.returncode:
            last = next(Path(folder).glob("last/case*"), None)
            what = f"ended with status {done.returncode}{last_place(done.stderr.splitlines())}"
            told.append(f"{what}: {keep(name, last.read_bytes() if last else b'', what, out)}")
    count = max((int(a or b) for a, b in tried), default=0)
    print(
        f"{name}: {count:,} cases in {seconds:.0f} s, guided",
        *(f"  {line}" for line in told),
        sep="\n",
        flush=True,
    )
    return len(told)


def keep(name: str, data: bytes, what: str, out: Path) -> Path:
    """Write a finding as the other fuzzer does: a file that replays, and what it does."""
    from parity_tests.fuzz.targets import TARGETS

    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}-{hashlib.sha256(data).hexdigest()[:10]}{TARGETS[name].suffix}"
    path.write_bytes(data)
    path.with_name(f"{path.name}.json").write_text(
        json.dumps({"target": name, "what": what, "edits": []}) + "\n"
    )
    return path


def _fuzz(name: str, out: Path, folder: Path, limits: Sequence[str]) -> None:
    """In a process of its own, which this ends."""
    import atheris

    with atheris.instrument_imports(include=ROOMS):
        from parity_tests.fuzz.run import try_file
        from parity_tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    kinds: set[str] = set()
    seeds, work = folder / "seeds", folder / "last"
    for made in (seeds, work):
        made.mkdir()
    for i, data in enumerate(target.seeds()):
        (seeds / str(i)).write_bytes(data)
    path = work / f"case{target.suffix}"

    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        wrong = try_file(name, path)
        if wrong not in ("", "refused", *kinds):
            kinds.add(wrong)
            print(f"found {wrong}: {keep(name, data, wrong, out)}", flush=True)

    # libFuzzer's own clock and limits are off: those of `try_file` count.
    own = ["-timeout=0", "-rss_limit_mb=0", "-handle_alrm=0", "-print_final_stats=1", "-close_fd_mask=0"]
    atheris.Setup(["fuzz", *limits, *own, f"-artifact_prefix={folder}/", str(seeds)], attempt)
    atheris.Fuzz()


if __name__ == "__main__":
    _fuzz(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
