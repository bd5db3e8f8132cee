"""Start TensorBoard on a log folder and take a screenshot of a tab in headless Chromium, to look at.

    python tests/screenshot.py LOGDIR OUT.png [--tab images|timeseries|scalars] [--size 1440x2000]

Needs ``chromium`` on the path.
"""

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

_QUIET = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logdir", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tab", default="images")
    parser.add_argument("--size", default="1440x2000")
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("chromium is not on the path")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    board = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", str(args.logdir), "--port", str(port), "--host", "127.0.0.1",
         "--samples_per_plugin", "images=100"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/data/plugin/images/tags", b"cam")
        shoot(chromium, f"http://127.0.0.1:{port}/#{args.tab}", args.out, args.size.replace("x", ","))
    finally:
        board.terminate()
    print(f"{args.out}: {args.out.stat().st_size} bytes")


def wait_for(url: str, text: bytes, seconds: float = 60) -> None:
    until = time.time() + seconds
    while time.time() < until:
        try:
            with urllib.request.urlopen(url) as answer:
                if text in answer.read():
                    return
        except OSError:
            pass
        time.sleep(0.5)
    sys.exit(f"TensorBoard did not list {text!r} in {seconds:.0f} s")


def shoot(chromium: str, url: str, out: Path, size: str) -> None:
    with tempfile.TemporaryDirectory() as profile:
        flags = [f"--user-data-dir={profile}", f"--window-size={size}", "--virtual-time-budget=30000", f"--screenshot={out}"]
        subprocess.run([chromium, *_QUIET, *flags, url], check=True, timeout=180, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
