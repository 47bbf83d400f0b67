"""The command under torchrun, two processes on a CPU: as one process, and nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

# Steps large enough that the best epoch is not the untrained one.
# Without dropout, whose masks are each process's own.
CONFIG = """
[target]
name = "mel"
pooling = "frames"

[encoder]
preset = "small"
dropout = 0.0

[pretrain]
max_epochs = 3
batch_size = 17

[finetune]
max_epochs = 3
batch_size = 17

[evaluation]
block = 6.0
n_bootstrap = 50
n_permutations = 50
"""


def command(n_processes: int, *words: str | Path) -> subprocess.CompletedProcess[str]:
    launcher = ["-m"]
    if n_processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone"]
        launcher += [f"--nproc-per-node={n_processes}", "-m"]
    return subprocess.run(
        [sys.executable, *launcher, "bids_speechdecode", *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


Run = tuple[Path, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def runs(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Return output folder and finished command of one process and of two."""
    folder = tmp_path_factory.mktemp("distributed")
    config = folder / "config.toml"
    config.write_text(CONFIG)
    runs = []
    for n in (1, 2):
        out = folder / str(n)
        options = ("--participant-label", "sim01", "--config", config)
        options += ("--bids-database-dir", folder / f"index{n}")
        done = command(n, tiny_dataset, out, "participant", *options)
        assert done.returncode == 0, done.stderr[-3000:]
        runs.append((out, done))
    return runs[0], runs[1]


def lines(text: str) -> list[str]:
    """Return what was told, without times and folders."""
    kept = (line for line in text.splitlines() if line.startswith(("preproc", "features", "train")))
    return [line.partition(" done in ")[0] for line in kept]


def test_the_same_files_and_nothing_said_twice(runs: tuple[Run, Run]) -> None:
    """A second writer would tear files of week-long work; a second voice would double the log."""
    (one, alone), (two, both) = runs
    files = [
        sorted(str(p.relative_to(out)) for p in out.rglob("*") if "log" not in p.parts)
        for out in (one, two)
    ]
    assert files[0] == files[1]
    assert lines(both.stderr) == lines(alone.stderr) != []
    assert both.stdout.count("Backward ridge") == alone.stdout.count("Backward ridge") > 0
    assert len(list((two / "sub-sim01" / "log").iterdir())) == 1


def test_the_same_signatures(runs: tuple[Run, Run]) -> None:
    """What two processes made is current for one, and the other way round."""
    (one, _), (two, _) = runs
    found = [
        {
            str(p.relative_to(out)): json.loads(p.read_text()).get("Signature")
            for p in out.rglob("*_model.json")
        }
        for out in (one, two)
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 6


@pytest.mark.parametrize("model", ["pretrained", "linear", "taskonly", "frozen", "finetuned"])
def test_nearly_the_same_model(runs: tuple[Run, Run], model: str) -> None:
    """More processes change the speed and not the training."""
    (one, _), (two, _) = runs
    tables = [
        pd.read_csv(next(out.rglob(f"*desc-{model}_history.tsv")), sep="\t") for out in (one, two)
    ]
    for column in ("train_loss", "val_loss"):
        assert tables[0][column].nunique() >= 3, "nothing was learnt, so nothing is compared"
        # Sums in another order grow through Adam, epoch after epoch.
        np.testing.assert_allclose(tables[0][column], tables[1][column], rtol=1e-3)
    weights = [load_file(next(out.rglob(f"*desc-{model}_model.safetensors"))) for out in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, atol=0.01, rtol=0.01, msg=name)


def test_backward_model_is_equal(runs: tuple[Run, Run]) -> None:
    """It is solved in closed form by the main process alone, so there is no excuse."""
    name = "*desc-backward_model.safetensors"
    one, two = (load_file(next(out.rglob(name))) for out, _ in runs)
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_one_process_finds_the_work_done(runs: tuple[Run, Run], tiny_dataset: Path) -> None:
    """Training on several GPUs, then evaluating on a laptop, must not train again."""
    out, _ = runs[1]
    options = ("--participant-label", "sim01", "--config", out.parent / "config.toml")
    done = command(1, tiny_dataset, out, "participant", *options)
    assert done.returncode == 0, done.stderr
    trained = [line for line in done.stderr.splitlines() if line.startswith("train: ")]
    assert len(trained) == 6
    assert all(line.endswith("skipped (current)") for line in trained)


def test_group_and_dry_run_speak_once(runs: tuple[Run, Run], tiny_dataset: Path) -> None:
    """Who puts torchrun before every line of a script still gets each level once."""
    out, _ = runs[1]
    group = command(2, tiny_dataset, out, "group", "--participant-label", "sim01")
    assert group.returncode == 0, group.stderr
    assert group.stdout.count("group, task audiobook") == 1
    config = ("--config", out.parent / "config.toml")
    dry = command(2, tiny_dataset, out, "participant", "--dry-run", *config)
    assert dry.returncode == 0, dry.stderr
    assert dry.stdout.count("recordings would be used") == 2  # one for each participant


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--finetune-task", "audiobok"], "did you mean 'audiobook'?"),
        (["--steps", "evaluate"], "the results of step 'preprocess' are missing"),
        (["--steps", "everything"], "everything"),
    ],
)
def test_a_mistake_is_told_once(
    tiny_dataset: Path, tmp_path: Path, words: list[str], expected: str
) -> None:
    """Neither two messages, nor one process that waits for the other for ever."""
    options = ("--participant-label", "sim01", "--target", "mel", *words)
    done = command(2, tiny_dataset, tmp_path / "out", "participant", *options)
    assert done.returncode != 0
    told = [x for x in done.stderr.splitlines() if x.startswith("bids_speechdecode: ")]
    assert len(told) == 1, done.stderr
    assert done.stderr.count(expected) == 1
