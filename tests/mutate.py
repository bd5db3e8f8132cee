"""Break the package on purpose, one place at a time, and demand that a test notices.

    python tests/mutate.py            every mutation, each against the tests named beside it
    python tests/mutate.py resize     those whose name holds the word

A coverage tool shows what ran; this shows what is checked. It works on copies; the checkout is not touched. Every fault has a
process of its own, forked from one that has imported what takes long: the package itself is imported in the copy alone.
"""

import importlib
import multiprocessing
import os
import shlex
import shutil
import sys
import tempfile
import time
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from mutations import MUTATIONS, Mutation

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: a process that has threads cannot be forked safely

ROOT = Path(__file__).parent.parent
PARTS = ("lightning_cam", "tests", "configs", "docs", "examples", "pyproject.toml")
HEAVY = (
    "torch",
    "torchvision",
    "lightning.pytorch",
    "tensorboard.backend.event_processing.event_accumulator",
    "timm",
    "transformers",
)
FORK = multiprocessing.get_context("fork")


class Trial:
    """The tests of one fault, on a copy that has it. A fault that keeps tests from starting at all counts as not noticed."""

    def __init__(self, mutation: Mutation) -> None:
        self.mutation = mutation
        self.folder = tempfile.TemporaryDirectory()
        copy = Path(self.folder.name)
        for part in PARTS:
            _copy(ROOT / part, copy / part)
        broken = copy / "lightning_cam" / mutation.file
        text = broken.read_text()
        if mutation.old not in text:
            sys.exit(f"{mutation.name}: {mutation.file} no longer holds {mutation.old!r}")
        broken.write_text(text.replace(mutation.old, mutation.new))
        files, _, words = mutation.tests.partition(" -k ")
        self.arguments = [f"tests/{file}" for file in files.split()]
        if words:
            self.arguments += ["-k", words]
        self.log = copy / "log"
        self.start = time.perf_counter()
        self.process: BaseProcess = FORK.Process(target=run_tests, args=(copy, self.arguments, self.log))
        self.process.start()

    def noticed(self) -> bool:
        """Whether a test failed, once the process has ended; told in a line."""
        self.process.join()
        code = self.process.exitcode
        word = "noticed " if code == 1 else "SURVIVED"
        print(f"{word} {self.mutation.name} ({time.perf_counter() - self.start:.0f} s)", flush=True)
        if code not in (0, 1):
            print(shlex.join(self.arguments), self.log.read_text()[-1000:], flush=True)
        self.folder.cleanup()
        return code == 1


def main() -> None:
    chosen = [mutation for mutation in MUTATIONS if not sys.argv[1:] or sys.argv[1] in mutation.name]
    if not chosen:
        sys.exit(f"no mutation has {sys.argv[1]!r} in its name")
    for name in HEAVY:
        importlib.import_module(name)
    waiting, running, survived = list(chosen), [], []
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            running.append(Trial(waiting.pop(0)))
        wait([trial.process.sentinel for trial in running])
        for trial in [trial for trial in running if not trial.process.is_alive()]:
            running.remove(trial)
            if not trial.noticed():
                survived.append(trial.mutation.name)
    print(f"{len(chosen) - len(survived)} of {len(chosen)} mutations noticed")
    if survived:
        sys.exit("not noticed: " + "; ".join(survived))


def run_tests(copy: Path, arguments: list[str], log: Path) -> None:
    """In the forked process: become a run of pytest in the copy."""
    import pytest

    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    sys.path[:] = [str(copy), *(path for path in sys.path if Path(path) not in (ROOT, ROOT / "tests"))]
    sys.exit(int(pytest.main(["-x", "-q", *arguments])))


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


if __name__ == "__main__":
    main()
