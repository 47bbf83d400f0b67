"""What many tests share: a tiny simulated dataset, a finished run on it, the command line."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import pytest
import torch

from bids_speechdecode.cli import main
from bids_speechdecode.simulate import simulate_dataset

# Real recordings and models that are not part of the project; tests skip where they are absent.
SHARED = Path(__file__).resolve().parents[2] / "shared"

# Training just long enough to write everything that a run writes.
QUICK = """
[target]
name = "mel"
pooling = "frames"

[encoder]
preset = "small"

[pretrain]
max_epochs = 2
batch_size = 16

[finetune]
max_epochs = 2
batch_size = 16

[evaluation]
block = 6.0
n_bootstrap = 200
n_permutations = 200
"""


# The same for speech models of the simulated pair, their tuning and encoding.
PAIR_QUICK = """
[fmri]
epochs = 1
n_validation = 1
stride = 1.0

[encoding]
n_permutations = 50
max_lag = 0.3
nuisance = ["envelope", "onsets"]

[evaluation]
n_bootstrap = 50
n_permutations = 50
"""


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> Iterator[None]:
    """Two test processes with two threads each would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Make a folder once for all test processes."""
    with filelock.FileLock(f"{folder}.lock"):
        if not folder.exists():
            partial = folder.with_name(f"{folder.name}.partial")
            make(partial)
            partial.rename(folder)
    return folder


def _common(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Return the tiny simulated dataset; read-only by convention (see `tiny_copy`)."""
    common = _common(tmp_path_factory, worker_id)
    return _once(common / "tiny", lambda path: simulate_dataset(path, preset="tiny") and None)


@pytest.fixture
def tiny_copy(tiny_dataset: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny dataset that a test may damage."""
    return Path(shutil.copytree(tiny_dataset, tmp_path / "data"))


@pytest.fixture(scope="session")
def quick_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a settings file for runs of seconds."""
    path = tmp_path_factory.mktemp("config") / "quick.toml"
    path.write_text(QUICK)
    return path


@pytest.fixture(scope="session")
def finished_run(
    tmp_path_factory: pytest.TempPathFactory,
    worker_id: str,
    tiny_dataset: Path,
    quick_config: Path,
) -> Path:
    """Return derivatives of both participants and the group; read-only by convention."""

    def run(out: Path) -> None:
        for level in ("participant", "group"):
            status = main([str(tiny_dataset), str(out), level, "--config", str(quick_config)])
            assert status == 0

    return _once(_common(tmp_path_factory, worker_id) / "derivatives", run)


@pytest.fixture(scope="session")
def pair_dataset(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Return the smallest simulated pair of iEEG and fMRI; read-only by convention."""
    pytest.importorskip("espeakng_loader", reason="the synthesiser is in the extra [demo]")
    common = _common(tmp_path_factory, worker_id)
    return _once(
        common / "pair", lambda path: simulate_dataset(path, preset="encoding-tiny") and None
    )


@pytest.fixture(scope="session")
def pair_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a settings file for tuning and encoding in seconds."""
    path = tmp_path_factory.mktemp("config") / "pair.toml"
    path.write_text(PAIR_QUICK)
    return path


@pytest.fixture(scope="session")
def pair_run(
    tmp_path_factory: pytest.TempPathFactory,
    worker_id: str,
    pair_dataset: Path,
    pair_config: Path,
) -> Path:
    """Return derivatives of a tuned model, encoding and the group; read-only by convention."""
    model = pair_dataset / "sourcedata" / "simulation" / "speech_model"
    encoding = ("--analysis", "encoding")
    commands = (
        ("participant", "--analysis", "fmri-tuning", "--speech-model", str(model)),
        ("participant", *encoding, "--finetune-task", "podcast", "--speech-model", "untuned tuned"),
        ("group", *encoding),
    )

    def run(out: Path) -> None:
        for level, *words in commands:
            typed = [part for word in words for part in word.split(" ")]
            layer = ["--speech-layer", "3"] if level == "participant" else []
            options = [*typed, *layer, "--config", str(pair_config)]
            assert main([str(pair_dataset), str(out), level, *options]) == 0

    return _once(_common(tmp_path_factory, worker_id) / "encoded", run)
