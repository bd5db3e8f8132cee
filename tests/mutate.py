"""Break the package on purpose, one place at a time, and demand that a test notices.

    python tests/mutate.py            every mutation, each against the tests named beside it
    python tests/mutate.py resize     those whose name holds the word

A coverage tool shows what ran; this shows what is checked. It works on copies; the checkout is not touched.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parent.parent


def main() -> None:
    chosen = [mutation for mutation in MUTATIONS if not sys.argv[1:] or sys.argv[1] in mutation.name]
    if not chosen:
        sys.exit(f"no mutation has {sys.argv[1]!r} in its name")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        noticed = list(pool.map(killed, chosen))
    survived = [mutation.name for mutation, dead in zip(chosen, noticed, strict=True) if not dead]
    print(f"{len(chosen) - len(survived)} of {len(chosen)} mutations noticed")
    if survived:
        sys.exit("not noticed: " + "; ".join(survived))


def killed(mutation: Mutation) -> bool:
    """Whether a test fails in a copy with the fault. A fault that keeps tests from starting at all does not count."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("lightning_cam", "tests", "configs", "docs", "examples"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        broken = copy / "lightning_cam" / mutation.file
        text = broken.read_text()
        if mutation.old not in text:
            sys.exit(f"{mutation.name}: {mutation.file} no longer holds {mutation.old!r}")
        broken.write_text(text.replace(mutation.old, mutation.new))
        files, _, words = mutation.tests.partition(" -k ")
        tests = [f"tests/{file}" for file in files.split()]
        if words:
            tests += ["-k", words]
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", *tests],
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
    noticed = done.returncode == 1
    print(f"{'noticed ' if noticed else 'SURVIVED'} {mutation.name} ({time.perf_counter() - start:.0f} s)", flush=True)
    if done.returncode > 1:
        print(shlex.join(tests), done.stdout[-500:], done.stderr[-500:], flush=True)
    return noticed


if __name__ == "__main__":
    main()
