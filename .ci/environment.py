"""Makes the Makefile's virtual environment, if it is not there, and says how much its installation will fetch.

``python .ci/environment.py FOLDER``: a PyTorch that this Python has is used by the new environment, not fetched again.
"""

import subprocess
import sys
import venv
from pathlib import Path

TORCH_IS_THERE = "from importlib.util import find_spec as find; raise SystemExit(not (find('torch') and find('torchvision')))"


def main() -> None:
    """Run from the Makefile, before pip."""
    folder = Path(sys.argv[1])
    python = folder / "bin" / "python"
    if not python.exists():
        make(folder)
    if has_torch(python):
        size = "250 MB, for PyTorch is already there"
    elif sys.platform == "linux":
        size = "3 GB and takes 6 GB of disk, nearly all of it PyTorch with CUDA"
    else:
        size = "500 MB, with PyTorch"
    print(f"Setting up {folder}: this fetches at most about {size}.", flush=True)


def make(folder: Path) -> None:
    """A new environment in the folder, which sees this Python's packages if PyTorch is among them."""
    shared = has_torch(Path(sys.executable))
    nested = sys.prefix != sys.base_prefix
    venv.create(folder, system_site_packages=shared and not nested, symlinks=True, with_pip=True)
    if shared and nested:
        # venv offers the packages of the Python below both environments, not those of the outer one
        outer = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
        site_packages = next(folder.glob("lib/python*/site-packages"))
        (site_packages / "outer_environment.pth").write_text("\n".join(outer) + "\n")


def has_torch(python: Path) -> bool:
    """Whether this Python finds torch and torchvision."""
    return subprocess.run([python, "-c", TORCH_IS_THERE], check=False).returncode == 0


if __name__ == "__main__":
    main()
