"""Where things lie, and what a set-up leaves behind. Python 3.6 syntax."""

from collections import namedtuple
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
HOST = ROOT / ".host"

Installation = namedtuple("Installation", "python comfyui base")
