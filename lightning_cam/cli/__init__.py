"""The command line."""

from lightning_cam.cli.main import main as main
