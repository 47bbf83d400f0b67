"""The house: floors, a quick --help, and the files at the top of the repository."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
HEAVY = ("torch", "mne", "pandas", "numpy", "scipy", "transformers", "bids", "matplotlib", "rich")


def test_rooms_use_only_the_floors_below() -> None:
    """A numerical room that imports BIDS, or a cycle, can no longer be used on its own."""
    done = subprocess.run(
        [BIN / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_every_room_is_on_a_floor() -> None:
    """A new module that is in no contract would be bound by none."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    known = {name.strip().split(".")[1] for layer in layers for name in layer.split("|")}
    package = ROOT / "bids_speechdecode"
    rooms = {p.stem for p in package.glob("*.py") if not p.stem.startswith("__")}
    rooms |= {p.parent.name for p in package.glob("*/__init__.py")}
    assert rooms <= known


def test_help_answers_at_once() -> None:
    """People ask --help often; half a second is the promise.

    Processor time, which does not depend on what else the machine does; the second of two calls,
    because the first may have to compile.
    """
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([BIN / "bids_speechdecode", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert took < 0.5


@pytest.mark.parametrize("words", [["--help"], ["data", "out", "particpant"]])
def test_help_and_mistakes_import_nothing_heavy(words: list[str]) -> None:
    """The reason why it is quick, which a fast machine would hide."""
    script = (
        "import sys\n"
        "from bids_speechdecode.cli import main\n"
        f"main({words!r})\n"
        f"print('heavy:', *sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "heavy:"


def test_importing_changes_nothing() -> None:
    """A library that adds log handlers or settings when imported spoils its host program."""
    script = (
        "import logging, os, signal\n"
        "before = dict(os.environ), signal.getsignal(signal.SIGTERM)\n"
        "import bids_speechdecode.cli\n"
        "log = logging.getLogger('bids_speechdecode')\n"
        "assert before == (dict(os.environ), signal.getsignal(signal.SIGTERM))\n"
        "assert not log.handlers and log.level == 0 and log.propagate\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_pins_name_what_setup_needs() -> None:
    """A dependency without a pin makes tomorrow's installation an untested one."""
    pins = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    setup = (ROOT / "setup.cfg").read_text()
    wanted = re.findall(r"^    ([\w.-]+)(?:>=|==|~=)", setup, re.MULTILINE)
    missing = {w for w in wanted if re.sub(r"[-_.]+", "-", w).lower() not in names}
    assert len(wanted) > 30
    assert missing <= {"python_requires"}


def test_pins_are_plain_versions() -> None:
    """Local builds (``+cpu``) and addresses exist on one machine only."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(line.startswith("#") or re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert "torch==2.13.0" in lines


def test_hadolint_is_content() -> None:
    """The container is built on other people's machines; known mistakes stop here."""
    done = subprocess.run(
        [BIN / "hadolint", "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_gets_all_that_it_is_made_from() -> None:
    """.dockerignore lets in a few names; a COPY of anything else fails at build time."""
    copied = set()
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= set(line.split()[1:-1])
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert copied
    assert copied == {line[1:] for line in ignored if line.startswith("!")}


def test_the_image_needs_no_network_and_no_root() -> None:
    """Clusters run it read-only, as nobody in particular, without internet."""
    text = (ROOT / "Dockerfile").read_text().rsplit("\nFROM ", 1)[1]
    assert re.search(r"^USER [1-9]", text, re.MULTILINE)
    for setting in ("HF_HUB_OFFLINE=1", "HOME=/tmp", "MPLCONFIGDIR=/tmp", "NUMBA_CACHE_DIR=/tmp"):
        assert f" {setting}" in text


@pytest.mark.parametrize("name", ["Makefile", ".ci/run", "Dockerfile"])
def test_what_ci_calls_is_there(name: str) -> None:
    """CI runs the script by name; one that cannot be executed fails on the first day."""
    path = ROOT / name
    assert path.is_file()
    if name == ".ci/run":
        assert os.access(path, os.X_OK)
        subprocess.run(["bash", "-n", path], check=True)
