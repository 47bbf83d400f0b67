"""The Boutiques descriptor: valid, that of the command as it is, and launched for real."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bids_speechdecode.cli import command

ROOT = Path(__file__).resolve().parents[1]
DESCRIPTOR = ROOT / "boutiques.json"
BIN = Path(sys.executable).parent


def bosh(*words: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    # Its records stay out of the home of whoever runs the tests.
    env = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "HOME": str(home)}
    return subprocess.run(
        [BIN / "bosh", *words], capture_output=True, text=True, env=env, cwd=home, check=False
    )


def launch(home: Path, **invocation: Any) -> subprocess.CompletedProcess[str]:
    path = home / "invocation.json"
    path.write_text(json.dumps(invocation))
    words = ("exec", "launch", "--no-container", "--skip-data-collection", DESCRIPTOR, path)
    return bosh(*words, home=home)


def test_it_is_that_of_the_command() -> None:
    """A platform that shows last year's options sends command lines that fail."""
    tool = runpy.run_path(str(ROOT / "tools" / "boutiques_descriptor.py"))
    made = tool["to_json"](tool["describe"]())
    assert DESCRIPTOR.read_text() == made, "run: make descriptor"


def test_it_has_every_input_of_the_command() -> None:
    """Compared with click itself, not with the generator."""
    entries = json.loads(DESCRIPTOR.read_text())["inputs"]
    flags = {entry["command-line-flag"] for entry in entries if "command-line-flag" in entry}
    typed = {max(p.opts, key=len) for p in command.params if p.opts[0].startswith("-")}
    assert flags == typed - {"--version"}
    level = next(entry for entry in entries if entry["id"] == "analysis_level")
    assert level["value-choices"] == ["participant", "group"]


@pytest.mark.parametrize("words", [["validate"], ["validate", "--bids"]])
def test_bosh_finds_it_valid(tmp_path: Path, words: list[str]) -> None:
    """Platforms refuse a descriptor that the reference validator refuses."""
    done = bosh(*words, DESCRIPTOR, home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_bosh_launches_the_command(tmp_path: Path) -> None:
    """The command line that bosh builds is understood as typed, up to the planted mistake."""
    data = tmp_path / "data"
    data.mkdir()
    done = launch(
        tmp_path,
        bids_dir=str(data),
        output_dir_name=str(tmp_path / "out"),
        analysis_level="participant",
        participant_label=["01", "sub-02"],
        session_label=["a"],
        target="mel",
        seed=3,
        dry_run=True,
        steps=["preprocess", "featurs"],
    )
    assert "--participant-label 01 sub-02 --session-label a" in done.stdout
    assert "did you mean 'features'?" in done.stdout + done.stderr
    assert done.returncode == 64


def test_bosh_names_the_exit_status(tmp_path: Path) -> None:
    """An empty folder is no BIDS dataset: 16, with its meaning from the descriptor."""
    data = tmp_path / "data"
    data.mkdir()
    done = launch(
        tmp_path,
        bids_dir=str(data),
        output_dir_name=str(tmp_path / "out"),
        analysis_level="group",
    )
    assert done.returncode == 16, done.stdout + done.stderr
    assert "The input folder is not a BIDS dataset." in done.stdout


@pytest.mark.slow
def test_bosh_launches_a_whole_run(tmp_path: Path, tiny_dataset: Path, quick_config: Path) -> None:
    """The descriptor is what a platform starts: it must end with results, on both levels."""
    given = {"bids_dir": str(tiny_dataset), "config": str(quick_config)}
    out = tmp_path / "out"
    participant = launch(
        tmp_path,
        **given,
        output_dir_name=str(out),
        analysis_level="participant",
        participant_label=["sim01"],
        target="mel",
        n_procs=1,
    )
    assert participant.returncode == 0, participant.stdout + participant.stderr
    assert "--participant-label sim01" in participant.stdout
    assert (out / "sub-sim01.html").stat().st_size > 10_000
    assert not (out / "sub-sim02").exists()
    group = launch(
        tmp_path,
        **given,
        output_dir_name=str(out),
        analysis_level="group",
        participant_label=["sim01"],
    )
    assert group.returncode == 0, group.stdout + group.stderr
    assert (out / "group.html").exists()
