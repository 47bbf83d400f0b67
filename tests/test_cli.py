"""The command line as people type it: what it means, its exit status and its message."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_speechdecode import cli, failures
from bids_speechdecode.config import STEPS, Config, Request
from bids_speechdecode.errors import DataError, SpeechDecodeError, UsageError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder that has an (empty) dataset folder ``data``."""
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def understand(line: str) -> tuple[Request, Config]:
    return cli.command.main(line.split(), standalone_mode=False)


@pytest.mark.parametrize(
    "line",
    [
        "data out participant --participant-label 01 02 sub-03",
        "data out --participant-label 01 02 sub-03 participant",
        "data --participant-label 01 02 sub-03 ./out participant",
        "--participant-label 01 02 sub-03 data out participant",
        "--participant_label sub-01 02 03 --seed 1 data out participant",
        "--participant-label 01 02 03 data out --seed 1 participant",
        "data out participant --participant-label 01 --participant-label 02 03",
        "data out participant --participant_label=01,02 --participant-label=sub-03",
        "data out participant --participant-label 01,02, 03,01",
        "-v --participant-label 01 02 03 -- data out participant",
    ],
)
def test_participants_mean_the_same_wherever_they_are_typed(here: Path, line: str) -> None:
    """BIDS Apps take lists after one option; click alone would take them for folders."""
    request, _ = understand(line)
    assert request.participants == ("01", "02", "03")
    assert (request.bids_dir, request.output_dir) == (Path("data"), Path("out"))
    assert request.level == "participant"


@settings(deadline=None)  # of a machine that does other things, too
@given(st.permutations(range(5)), st.data())
def test_order_never_changes_the_meaning(order: list[int], data: st.DataObject) -> None:
    """A mixed-up line may be refused, but must never be read as something else."""
    options = [
        ["--participant-label", "01", "02"],
        ["--session_label", "a"],
        ["--seed", "7"],
        ["-v"],
        ["--steps", "features,pretrain"],
    ]
    folders = [str(Path(__file__).parent), "/nowhere/out", "participant"]
    places = [data.draw(st.integers(0, 3)) for _ in order]
    words = []
    for place in range(4):
        for index in order:
            if places[index] == place:
                words += options[index]
        words += folders[place : place + 1]
    try:
        request, config = cli.command.main(words, standalone_mode=False)
    except UsageError as error:
        # Positionals that come first or last can always be told.
        if "cannot tell" not in str(error) or max(places) == 0 or min(places) == 3:
            raise
        return
    assert [str(request.bids_dir), str(request.output_dir), request.level] == folders
    assert request.participants == ("01", "02")
    assert config.inputs.sessions == ("a",)
    assert (config.run.seed, request.verbosity) == (7, 1)
    assert request.steps == ("features", "pretrain")


def test_labels_come_from_files(here: Path) -> None:
    """Cohorts are kept in lists and in participants.tsv; comments and headers are no labels."""
    (here / "list.txt").write_text("\ufeff# cohort\nsub-01\n02 03\n", encoding="utf-8")
    (here / "participants.tsv").write_text("participant_id\tage\nsub-04\t31\nsub-05\t27\n")
    request, _ = understand(
        "data out participant --participant-label @list.txt participants.tsv 01"
        " --exclude-participant-label ./list.txt"
    )
    assert request.participants == ("01", "02", "03", "04", "05")
    assert request.excluded == ("01", "02", "03")


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("", 64, "BIDS_DIR"),
        ("data out", 64, "{participant,group}"),
        ("data out --participant-label 01 02", 64, "{participant,group}"),
        ("data out particpant", 17, "did you mean 'participant'?"),
        ("data out --participant-label 01 particpant", 17, "did you mean 'participant'?"),
        ("data out session", 17, "participant or group"),
        ("participant data out", 17, "BIDS_DIR OUTPUT_DIR {participant,group}"),
        ("nodata out participant", 66, "nodata"),
        ("data out participant more", 64, "more"),
        ("data out participant --particpant-label 01", 64, "'--participant-label'"),
        ("data out participant --participant-label", 64, "at least one value"),
        ("data out participant --participant-label ,", 64, "no label"),
        ("data out participant --participant-label @no.txt", 66, "no.txt"),
        ("--participant-label 01 02 out participant", 64, "positional arguments first"),
        ("data --participant-label 01 02 participant", 64, "positional arguments first"),
        ("data out participant --seed", 64, "--seed needs a value"),
        ("data out participant --finetune-task --dry-run", 64, "--finetune-task needs a value"),
        ("data out participant --seed one", 64, "--seed"),
        ("data out participant --seed -1", 64, "at least 0"),
        ("data out participant --target wav2vec", 64, "did you mean 'wav2vec2'?"),
        ("data out participant --target mel --speech-model m", 64, "no speech model"),
        ("data out participant --device gpu", 64, "cuda:N"),
        ("data out participant --speech-layer -1", 64, "whole numbers from 0"),
        ("data out participant --analysis encoding --speech-layer 3 x", 64, "cannot be 'x'"),
        ("data out participant --nuisance mel", 64, "nuisance in [encoding] of the --config file"),
        ("data out participant --steps preproces", 64, "did you mean 'preprocess'?"),
        ("data out participant --steps report --reports-only", 64, "contradict"),
        ("data out participant --pretrain-task audiobook", 64, "same task"),
        ("data out participant --config no.toml", 66, "no.toml"),
        ("data out participant --bids-filter-file no.json", 66, "no.json"),
        ("data out participant --work-dir data/work", 64, "never written to"),
        ("data out participant --bids-database-dir data", 64, "never written to"),
    ],
)
def test_mistakes_get_their_status_and_one_message(
    here: Path, capsys: pytest.CaptureFixture[str], line: str, status: int, said: str
) -> None:
    """Scripts branch on the status, people read the message; neither may be a traceback."""
    assert cli.main(line.split()) == status
    output = capsys.readouterr()
    assert said in output.err
    assert "Traceback" not in output.err
    assert output.out == ""
    assert [p.name for p in here.iterdir()] == ["data"], "a mistake must leave nothing behind"


def test_what_is_typed_wins_over_the_file(here: Path) -> None:
    """A configuration file is the lab's default; the command line is today's wish."""
    (here / "lab.toml").write_text(
        '[run]\nseed = 3\nprecision = "bf16"\n[inputs]\nsessions = ["a"]\n'
        "[windows]\nvoice_activity = true\n"
    )
    _, config = understand(
        "data out participant --config lab.toml --seed 0 --session-label ses-b"
        " --no-voice-activity --target wavlm"
    )
    assert (config.run.seed, config.run.precision) == (0, "bf16")
    assert config.inputs.sessions == ("b",)
    assert config.windows.voice_activity is False
    assert (config.target.model, config.target.layer) == ("microsoft/wavlm-base-plus", 9)


def test_every_option_arrives(here: Path) -> None:
    """An option that is parsed but not passed on would be ignored without a word."""
    (here / "f.json").write_text("{}")
    request, config = understand(
        "data out group --run-label 1 02 --pretrain-task task-night --finetune-task story"
        " --audio a.wav --bids-filter-file f.json --bids-database-dir db --skip-bids-validation"
        " --reference bipolar --target hubert --speech-model m --speech-layer 4 --pooling frames"
        " --voice-activity --encoder small --steps report,preprocess --dry-run"
        " --stop-on-first-crash -w work --device cuda:1 --precision fp16 --n-procs 3 --mem-gb 8.5"
        " -vv"
    )
    assert request == Request(
        Path("data"),
        Path("out"),
        "group",
        steps=("preprocess", "report"),
        dry_run=True,
        work_dir=Path("work"),
        filter_file=Path("f.json"),
        database_dir=Path("db"),
        stop_on_first_crash=True,
        verbosity=2,
    )
    inputs, target, run = config.inputs, config.target, config.run
    assert (inputs.runs, inputs.pretrain_task, inputs.finetune_task, inputs.audio) == (
        ("1", "02"),
        "night",
        "story",
        "a.wav",
    )
    assert inputs.skip_bids_validation
    assert (config.preprocess.reference, config.windows.voice_activity) == ("bipolar", True)
    assert (target.name, target.model, target.layer, target.pooling) == ("hubert", "m", 4, "frames")
    assert config.encoder.preset == "small"
    assert (run.device, run.precision, run.n_procs, run.mem_gb) == ("cuda:1", "fp16", 3, 8.5)


def test_without_options_everything_is_the_default(here: Path) -> None:
    """The plain two commands of the documentation must mean the documented defaults."""
    request, config = understand("data out participant")
    assert config == Config()
    assert request == Request(Path("data"), Path("out"), "participant")
    assert request.steps == STEPS


def test_a_folder_keeps_the_layer_of_its_target(here: Path) -> None:
    """A model that was downloaded by hand is the same model as by its name."""
    for analysis in ("decoding", "encoding", "fmri-tuning"):
        _, config = understand(
            f"data out participant --analysis {analysis} --target wavlm --speech-model ./w"
        )
        named = config.encoding.models[0] if analysis == "encoding" else config.target.model
        assert (named, config.target.layer) == ("./w", 9)


@pytest.mark.parametrize(
    ("section", "line", "said"),
    [
        ("fmri", "stride = 0.019", "stride (fmri) is below 0.02 s"),
        ("encoding", "rate = 0.9", "rate (encoding) is below 1 Hz"),
        ("encoding", "context = 0.0", "context cannot be 0.0"),
    ],
)
def test_limits_of_tuning(
    here: Path, capsys: pytest.CaptureFixture[str], section: str, line: str, said: str
) -> None:
    """Less than a frame of a speech model would be the same frame many times, or none."""
    (here / "c.toml").write_text(f"[{section}]\n{line}\n")
    words = "data out participant --analysis fmri-tuning --config c.toml"
    assert cli.main(words.split()) == 64
    assert said in capsys.readouterr().err
    (here / "c.toml").write_text("[fmri]\nstride = 0.02\n[encoding]\nrate = 1\n")
    understand(words)


def test_reports_only_is_the_last_step(here: Path) -> None:
    """--reports-only must not start hours of work."""
    request, _ = understand("data out participant --reports-only")
    assert request.steps == ("report",)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (DataError("odd", where="f.edf"), 65, "f.edf"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again"),
        (click.Abort(), 130, "interrupted"),
        (failures.Terminated(), 143, "terminated"),
        (OSError(errno.ENOSPC, "No space left on device", "/out/x"), 74, "/out/x"),
        (OSError(errno.EACCES, "Permission denied", "/out/x"), 73, "/out/x"),
        (OSError(errno.EROFS, "Read-only file system", "/out/x"), 73, "read-only"),
        (OSError(errno.EACCES, "Permission denied", "/data/x"), 66, "no permission to read"),
        (MemoryError(), 1, "memory"),
        (ZeroDivisionError("division by zero"), 1, "please report it"),
    ],
)
def test_every_end_has_a_status_and_one_message(
    error: BaseException, status: int, said: str
) -> None:
    """Whatever is raised anywhere below ends as the specification's status and a sentence."""
    found, message = failures.explain(error, Request(Path("/data"), Path("/out"), "group"))
    assert found == status
    assert said in message


def test_an_unexpected_error_names_the_newest_log(tmp_path: Path) -> None:
    """A report without the log cannot be acted on, so the message says which file it is."""
    logs = [tmp_path / f"sub-01/log/{run}/log.txt" for run in ("b", "a")]
    for age, log in enumerate(logs):
        log.parent.mkdir(parents=True)
        log.write_text("")
        # The newer file has the older name: time decides, not the alphabet.
        stamp = time.time() + age
        os.utime(log, (stamp, stamp))
    _, message = failures.explain(RuntimeError("x"), Request(Path(), tmp_path, "participant"))
    assert str(logs[1]) in message


def test_every_status_is_in_the_help() -> None:
    """The help lists the statuses by hand; a new error class must not be forgotten there."""
    for kind in SpeechDecodeError.__subclasses__():
        assert f" {kind.exit_code} " in cli.EXAMPLES


def test_terminated_unwinds(tmp_path: Path) -> None:
    """Batch systems stop jobs with SIGTERM; temporary files must be removed on the way out."""
    script = (
        "import sys, time\n"
        "from bids_speechdecode.failures import Terminated, termination\n"
        "try:\n"
        "    with termination():\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "except Terminated:\n"
        "    sys.exit(7)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    assert process.wait(timeout=20) == 7


def test_python_m_and_the_command_say_the_same() -> None:
    """Both ways to start it exist on every machine; one of them is often not on the path."""
    line = [sys.executable, "-m", "bids_speechdecode", "--version"]
    module = subprocess.run(line, capture_output=True, text=True, check=True)
    script = Path(sys.executable).parent / "bids_speechdecode"
    command = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert module.stdout == command.stdout == f"bids_speechdecode {cli.__version__}\n"


def test_help_names_every_option_in_its_section(capsys: pytest.CaptureFixture[str]) -> None:
    """An option that --help does not show does not exist for its users."""
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for option in cli.OPTIONS:
        assert all(name in text for name in option.opts)
    titles = [text.index(f"\n{option.section}:") for option in cli.OPTIONS]
    assert titles == sorted(titles)
