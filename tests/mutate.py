"""Break the package on purpose, one place at a time, and demand that a test notices.

    python tests/mutate.py            every mutation, each against the tests named beside it
    python tests/mutate.py resize     those whose name holds the word

A coverage tool shows what ran; this shows what is checked. It works on a copy; the checkout is not touched.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Mutation:
    """One fault: in which file, which text becomes which, and the tests that must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = [
    Mutation("swap height and width", "render/overlay.py", "return resize(unit, size)", "return resize(unit, size[::-1])", "render"),
    Mutation("swap height and width of boxes", "region.py", "x0, y0, x1, y1 =", "y0, x0, y1, x1 =", "metrics"),
    Mutation("inclusive box ends", "region.py", "(x < x1)", "(x < x1 + 1)", "metrics"),
    Mutation("train-mode batch norm", "undisturbed.py", "module.training = False", "pass", "methods"),
    Mutation("drop the ReLU of activation_mean", "methods/activation.py", "return a.relu().mean(1)", "return a.mean(1)", "methods"),
    Mutation("softmax target", "target.py", "return logits.gather(1, classes)", "return logits.softmax(1).gather(1, classes)", "methods"),
    Mutation("argmax for label", "target.py", "    return label\n", "    return logits.argmax(1)\n", "targets batch"),
    Mutation("detached copy before an in-place ReLU", "capture.py", "Kept(handed, ", "Kept(output, ", "methods"),
    Mutation("leaf without clone", "capture.py", "handed: Tensor = output.clone()", "handed: Tensor = output", "methods"),
    Mutation("sum for mean over space", "methods/gradient.py", ".mean(", ".sum(", "methods methods_gradient"),
    Mutation("align corners", "heat.py", "align_corners=False", "align_corners=True", "render"),
    Mutation("nearest for bilinear", "heat.py", 'mode="bilinear", align_corners=False', 'mode="nearest"', "render"),
    Mutation("energy of the signed map", "metrics/localization.py", "heat.relu()", "heat", "metrics"),
    Mutation("NaN counted as nothing inside", "metrics/localization.py", "share.isfinite(), torch.nan)", "share.isfinite(), 0)", "metrics"),
    Mutation("BGR for RGB", "render/colormap.py", "bgr[:, 0, ::-1]", "bgr[:, 0, :]", "render"),
    Mutation("colour table reversed", "render/colormap.py", "np.arange(256", "np.arange(255, -1, -1", "render"),
    Mutation("hooks left behind", "capture.py", "undo.callback(modules[name].register_forward_hook(run.hook(name)).remove)",
             "modules[name].register_forward_hook(run.hook(name))", "explain"),
    Mutation("randomness left moved", "undisturbed.py", "torch.set_rng_state(cpu)", "pass", "no_trace"),
    Mutation("step off by one", "schedule.py", "return int(stepped) - (1 if trainer.training else 0)", "return int(stepped) + 1", "lightning"),
    Mutation("prefix token taken for a patch", "layout.py", "moved[:, :, self.prefix :]", "moved[:, :, : moved.shape[2] - self.prefix]",
             "families attention"),
    Mutation("loader position for dataset index", "fetch.py", "raw = _collate(loader)([data[i] for i in indices])",
             "raw = next(iter(loader))", "batch"),
    Mutation("wrong order in the grid", "render/sheet.py", "reshape(rows, columns, ", "reshape(columns, rows, ", "render"),
    Mutation("the predicted class moves when an image is changed", "capture.py", "if look.aim.classes is not None:", "if False:",
             "methods_perturbation"),
]  # fmt: skip


def main() -> None:
    chosen = [mutation for mutation in MUTATIONS if not sys.argv[1:] or sys.argv[1] in mutation.name]
    survived = [mutation.name for mutation in chosen if not killed(mutation)]
    print(f"{len(chosen) - len(survived)} of {len(chosen)} mutations noticed")
    if survived:
        sys.exit("not noticed: " + "; ".join(survived))


def killed(mutation: Mutation) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("lightning_cam", "tests", "configs", "docs"):
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        broken = copy / "lightning_cam" / mutation.file
        text = broken.read_text()
        if mutation.old not in text:
            sys.exit(f"{mutation.name}: {mutation.file} no longer holds {mutation.old!r}")
        broken.write_text(text.replace(mutation.old, mutation.new))
        files = [f"tests/test_{name}.py" for name in mutation.tests.split() if (copy / f"tests/test_{name}.py").is_file()]
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", *files],
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy)},
            capture_output=True,
            text=True,
        )
    noticed = done.returncode == 1
    print(f"{'noticed ' if noticed else 'SURVIVED'} {mutation.name} ({time.perf_counter() - start:.0f} s)", flush=True)
    if done.returncode > 1:
        print(done.stdout[-500:], done.stderr[-500:])
    return noticed


if __name__ == "__main__":
    main()
