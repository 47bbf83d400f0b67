"""The documentation says what the program does: built, parsed and compared with the code."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
from conftest import _common, _once

from bids_speechdecode.anatomy import spaces
from bids_speechdecode.anatomy.atlas import SPEECH_ROI
from bids_speechdecode.anatomy.regions import VENTRAL_BELOW_MM
from bids_speechdecode.audio.context import GAIN_STEP
from bids_speechdecode.bids.sidecars import read_sidecar
from bids_speechdecode.cli import command, main
from bids_speechdecode.config import (
    DEFAULT_MODELS,
    RULES,
    STEPS_OF,
    Config,
    Request,
    load_config,
    settings,
)
from bids_speechdecode.encoding.bold import DRIFT
from bids_speechdecode.encoding.nulls import EXCLUDED, MIN_SHIFT
from bids_speechdecode.encoding.views import RESPONSIVE_Q
from bids_speechdecode.errors import SpeechDecodeError
from bids_speechdecode.failures import INTERRUPTED, TERMINATED
from bids_speechdecode.group.encoding.contrasts import contrast_over_participants
from bids_speechdecode.group.maps import SHAPE, Kernel
from bids_speechdecode.group.parcels import MIN_PARTICIPANTS
from bids_speechdecode.group.surfaces import MAX_DEPTH_MM
from bids_speechdecode.report import brain
from bids_speechdecode.signals.bands import BAND_EDGES
from bids_speechdecode.simulate import simulate_dataset
from bids_speechdecode.simulate.__main__ import command as simulator
from bids_speechdecode.steps.listen import N_PERMUTATIONS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = (README, *sorted(DOCS.glob("*.md")))

# Options of other programs that the pages show, none of which is one of ours.
OTHERS = {
    "--full",
    *("--array", "--cpus-per-task", "--dependency", "--gres", "--job-name", "--mem", "--parsable"),
    *("--requeue", "--time", "--bind", "--containall", "--env", "--nv", "--build-arg", "--network"),
    *("--read-only", "--rm", "--tmpfs", "--user", "--local-dir", "--nproc-per-node"),
    "--standalone",
}


def _options(*commands: click.Command) -> set[str]:
    params = [p for c in commands for p in c.params if isinstance(p, click.Option)]
    return {name for p in params for name in (*p.opts, *p.secondary_opts)} | {"-h", "--help"}


def _code(page: Path, language: str) -> Iterator[str]:
    pattern = rf"^ *```{language}\n(.*?)^ *```"
    yield from re.findall(pattern, page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def _typed(page: Path) -> Iterator[list[str]]:
    """Yield the words after ``bids_speechdecode`` of every command on a page."""
    for block in _code(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words[:1] and not re.search(r"(^|/)bids_speechdecode(\.sif|:\S+)?$", words[0]):
                words = words[1:]
            if len(words) > 3:
                yield words[1:]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the pages as HTML; a warning is an error."""
    out = tmp_path_factory.mktemp("html")
    words = ["-m", "sphinx", "-W", "--keep-going", "-q", "-d", out / "trees", DOCS, out / "html"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out / "html"


def _text(page: Path) -> str:
    """Return what a reader sees; furo and Sphinx set dashes apart in places."""
    return re.sub(r"<[^>]+>", "", page.read_text("utf-8"))


def test_pages_build_and_their_examples_are_read_as_they_say(built: Path) -> None:
    """The directive stops the build where an events.tsv is read otherwise than the page says."""
    text = _text(built / "inputs.html")
    assert text.count("It is read as:") >= 12
    assert "drift +20 ppm" in text
    assert text.count("The program stops (exit status 65):") >= 3


def test_every_option_and_setting_is_on_the_page(built: Path) -> None:
    """What is not on the page does not exist for the user."""
    html = (built / "options.html").read_text("utf-8")
    text = _text(built / "options.html")
    for option in _options(command, simulator) - {"-h", "--help"}:
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", text), option
    for name in settings():
        section, _, key = name.partition(".")
        table = re.split(rf"<h3>.*\[{section}\]", html)[1].split("</table>", 1)[0]
        assert f">{key}<" in table, name


def test_no_page_names_an_option_that_does_not_exist() -> None:
    """An option that was renamed leaves its old name behind in prose."""
    known = _options(command, simulator) | OTHERS
    for page in PAGES:
        found = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*", page.read_text("utf-8")))
        found -= {"--participant_label"}  # a spelling that options.md speaks of
        assert found <= known, f"{page.name}: {sorted(found - known)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_the_pages_are_understood(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """People copy commands from pages: the real parser must take each of them."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "settings.toml").write_text("")
    (tmp_path / "participants.txt").write_text("01\n02\n")
    for words in _typed(page):
        here = [
            re.sub(
                r"\$\{?\w+\}?", "1", {"/data": str(data), "/out": str(tmp_path / "out")}.get(w, w)
            )
            for w in words
        ]
        request, config = command.main(here, standalone_mode=False)
        assert isinstance(request, Request)
        assert isinstance(config, Config)


def test_the_pages_show_commands_at_all() -> None:
    """A pattern that finds nothing would let the test above pass for ever."""
    counts = {page.name: len(list(_typed(page))) for page in PAGES}
    assert counts["README.md"] >= 4
    assert counts["hpc.md"] >= 6
    assert counts["options.md"] >= 4


def test_settings_files_on_the_pages_are_accepted(tmp_path: Path) -> None:
    """A copied settings file must not fail at a key or a value."""
    blocks = [block for page in PAGES for block in _code(page, "toml")]
    assert blocks
    for block in blocks:
        path = tmp_path / "settings.toml"
        path.write_text(block)
        assert load_config(path) != Config()


def test_only_what_the_paper_states_is_marked_so() -> None:
    """The comments of config.py and the table of the docs must not contradict each other."""
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        from settings_table import PAPER, REVIEWS, rows
    finally:
        sys.path.pop(0)
    source = (ROOT / "bids_speechdecode" / "config.py").read_text("utf-8")
    for section, kind in {
        "preprocess": "PreprocessConfig",
        "target": "TargetConfig",
        "windows": "WindowConfig",
        "splits": "SplitConfig",
        "pretrain": "TrainingConfig",
        "evaluation": "EvaluationConfig",
    }.items():
        body = source.split(f"class {kind}:", 1)[1].split("\n\n\n", 1)[0]
        for name, *_, said_by in rows(section):
            field = re.split(rf"\n    {name}: ", body)[1]
            marked = "[P]" in re.split(r"\n    \w+: ", field)[0]
            assert not (said_by == PAPER and not marked), f"{section}.{name}: not [P] in config.py"
            assert not (marked and said_by not in (PAPER, REVIEWS)), f"{section}.{name}: is [P]"


def test_every_exit_status_is_explained() -> None:
    """A job script decides by these numbers."""
    kinds = [SpeechDecodeError, *SpeechDecodeError.__subclasses__()]
    statuses = {0, INTERRUPTED, TERMINATED, *(kind.exit_code for kind in kinds)}
    table = re.search(r"\| status \|.*?\n\n", (DOCS / "hpc.md").read_text("utf-8"), re.DOTALL)
    assert table
    first = [row.split("|")[1] for row in table[0].strip().splitlines()[2:]]
    assert {int(number) for cell in first for number in cell.split(",")} == statuses


def test_links_between_pages_lead_somewhere() -> None:
    """Of the README; those of the pages are checked by the build."""
    links = re.findall(r"(?<!!)\[[^\]]*\]\(([^)#]+)\)", README.read_text("utf-8"))
    assert len(links) >= 6
    for link in links:
        assert (ROOT / link).is_file(), link
    mentioned = re.findall(r"`(docs/[\w/.]+\.md)`", README.read_text("utf-8"))
    assert all((ROOT / name).is_file() for name in mentioned)


def test_make_targets_that_the_pages_name_exist() -> None:
    """`make demo` is the first thing a newcomer types."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    text = " ".join(page.read_text("utf-8") for page in PAGES)
    commands = re.findall(r"(?:`|^)make ([a-z -]+)(?:`|$)", text, re.MULTILINE)
    named = {word for words in commands for word in words.split()}
    assert {"demo", "test", "docs", "install"} <= named <= targets


def test_extras_that_the_pages_name_exist() -> None:
    """An installer takes an unknown extra with a warning only, and the package is missing later."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = set(setup["options.extras_require"])
    text = " ".join(page.read_text("utf-8") for page in PAGES)
    named = {
        n for words in re.findall(r'pip install "?\.\[([\w,]+)\]', text) for n in words.split(",")
    }
    assert named
    assert named <= extras


def test_python_version_of_the_pages() -> None:
    """A page that promises an older Python wastes somebody's afternoon."""
    needed = re.search(r"python_requires = >=(3\.\d+)", (ROOT / "setup.cfg").read_text())
    assert needed
    for page in (README, DOCS / "quickstart.md"):
        assert set(re.findall(r"Python (3\.\d+)", page.read_text("utf-8"))) == {needed[1]}


def test_every_file_and_column_is_on_the_page(finished_run: Path) -> None:
    """A column nobody explained is read as something else."""
    text = (DOCS / "outputs.md").read_text("utf-8")
    columns = {
        (path.name, column)
        for path in finished_run.rglob("*.tsv")
        if not path.name.endswith("_electrodes.tsv")
        for column in pd.read_csv(path, sep="\t", nrows=0).columns
    }
    assert len(columns) > 50
    for name, column in sorted(columns):
        assert f"`{column}`" in text, f"{column} of {name}"
    for path in finished_run.rglob("*"):
        if path.is_file() and path.parent.name == "ieeg":
            suffix = re.split(r"[_.]", path.name.partition(".")[0])[-1]
            assert f"_{suffix}." in text or f"{suffix}." in text, path.name


def test_sidecar_of_the_signal_is_on_the_page(finished_run: Path) -> None:
    """People who load the signal elsewhere depend on these."""
    sidecar = read_sidecar(next(finished_run.rglob("*_desc-preproc_ieeg.eeg")))
    text = (DOCS / "outputs.md").read_text("utf-8")
    known = {"Description", "Sources", "TaskName", "Step"}
    assert {key for key in sidecar if f"`{key}" not in text} <= known


def test_pages_keep_to_themselves() -> None:
    """Paths of one machine and addresses of a mirror mean nothing to a reader."""
    for page in (*PAGES, DOCS / "conf.py", *(DOCS / "_ext").glob("*.py")):
        text = page.read_text("utf-8")
        assert not re.search(r"(?<![\w.])/(?:work|home|root|Users)/(?!:)", text), page.name
        assert "index-url" not in text


# Tables whose section must have all of their columns, and none that they do not have.
SECTION_OF = {
    "desc-selected_channels": "`sub-XX_task-<task>_desc-selected_channels.tsv`",
    "desc-contrib_channels": "`sub-XX_task-<task>_desc-contrib_channels.tsv`",
    "desc-parcels_contributions": "`*_desc-parcels_contributions.tsv`",
    "desc-regions_contributions": "`*_desc-regions_contributions.tsv`",
    "desc-auditory_contributions": "`*_desc-auditory_contributions.tsv`",
    "desc-auditoryCorrelation_contributions": "`*_desc-auditoryCorrelation_contributions.tsv`",
    "_dseg": "`atlas-<name>_dseg.tsv`",
}


def _section(text: str, heading: str) -> str:
    found = re.split(rf"^### {re.escape(heading)}.*\n", text, flags=re.MULTILINE)
    assert len(found) == 2, heading
    return re.split(r"^##+ ", found[1], maxsplit=1, flags=re.MULTILINE)[0]


def _first_cells(section: str) -> list[str]:
    rows = re.findall(r"^\|([^|]*)\|", section, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


@pytest.mark.parametrize("ending", SECTION_OF)
def test_section_of_a_table_has_its_columns_and_no_others(finished_run: Path, ending: str) -> None:
    """`p` is explained somewhere on any page; it must be where the reader of this table looks."""
    text = (DOCS / "outputs.md").read_text("utf-8")
    explained = _first_cells(_section(text, SECTION_OF[ending]))
    assert len(explained) == len(set(explained))
    path = next(iter(finished_run.rglob(f"*{ending}.tsv")))
    columns = set(pd.read_csv(path, sep="\t", nrows=0).columns)
    assert set(explained) - {"participant"} == columns - {"participant"}


def test_tables_that_share_a_section_have_no_other_columns(finished_run: Path) -> None:
    """The page says that these tables have the columns of another one."""
    text = (DOCS / "outputs.md").read_text("utf-8")
    for name, shared in (
        ("contacts", "desc-contrib_channels"),
        ("parcelsByParticipant", "desc-parcels_contributions"),
    ):
        path = next(finished_run.glob(f"group_*_desc-{name}_contributions.tsv"))
        columns = set(pd.read_csv(path, sep="\t", nrows=0).columns)
        assert columns - {"participant"} <= set(_first_cells(_section(text, SECTION_OF[shared])))


def test_sidecars_of_electrodes_are_on_the_page(finished_run: Path) -> None:
    """Notes and counts in a sidecar are read by nobody who does not know of them."""
    text = (DOCS / "outputs.md").read_text("utf-8")
    known = {"Description", "Step"}
    for ending in ("desc-selected_channels", "desc-contrib_channels", "desc-effect_map"):
        sidecar = read_sidecar(next(iter(finished_run.rglob(f"*{ending}.*[!n]"))))
        fields = {k for k, v in sidecar.items() if not (isinstance(v, dict) and "Description" in v)}
        missing = {name for name in fields - known if f"`{name}" not in text}
        assert missing <= {"Model", "Atlas"}, ending


@pytest.fixture(scope="session")
def encoded_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Return derivatives of a tuned model, both participants and the group of the tiny pair."""

    def run(folder: Path) -> None:
        simulate_dataset(folder / "data", preset="encoding-tiny")
        (folder / "quick.toml").write_text("[fmri]\nepochs = 1\n")
        model = str(folder / "data" / "sourcedata" / "simulation" / "speech_model")
        encode = ["--analysis", "encoding"]
        for words in (
            ["participant", "--analysis=fmri-tuning", "--speech-model", model, "--speech-layer=3"],
            [
                *("participant", *encode, "--finetune-task", "podcast"),
                *("--speech-model", "untuned", "tuned"),
            ],
            ["group", *encode],
        ):
            where = [str(folder / "data"), str(folder / "out")]
            assert main([*where, *words, "--config", str(folder / "quick.toml")]) == 0

    return _once(_common(tmp_path_factory, worker_id) / "documented", run) / "out"


# Of the analyses encoding and fmri-tuning: file to section.
_OF_ONE = ("", "Lags", "Modulations", "Contrasts", "ElectrodeContrasts")
_OF_GROUP = ("Contrasts", "Profiles", "Scaling")
ENCODED_SECTION_OF = {
    **{
        f"sub-*_desc-encoding{name}_scores": f"`sub-XX_task-<task>_desc-encoding{name}_scores.tsv`"
        for name in _OF_ONE
    },
    **{
        f"group_*_desc-encoding{name}_scores": f"`group_task-<task>_desc-encoding{name}_scores.tsv`"
        for name in _OF_GROUP
    },
    "tuning": "`tuning.tsv`",
}
# Of the group, with the rows of all participants.
STACKED = {
    "group_*_desc-encodingElectrodes_scores": "sub-*_desc-encoding_scores",
    "group_*_desc-encodingParticipantContrasts_scores": "sub-*_desc-encodingContrasts_scores",
}


def _table_of(text: str, heading: str, first: str) -> list[str]:
    """Return what the table of a section explains; `first` heads the table's first column."""
    tables = re.findall(rf"^\| {first} \|.*\n((?:\|.*\n)+)", _section(text, heading), re.MULTILINE)
    assert len(tables) == 1, heading
    return _first_cells(tables[0])


def _columns(folder: Path, name: str) -> set[str]:
    return set(pd.read_csv(next(folder.rglob(f"{name}.tsv")), sep="\t", nrows=0).columns)


@pytest.mark.slow
def test_tables_of_encoding_and_tuning_are_on_the_page_and_no_others(encoded_run: Path) -> None:
    """`p` is one thing in a participant's table and another in the group's."""
    text = (DOCS / "outputs.md").read_text("utf-8")
    for name, heading in ENCODED_SECTION_OF.items():
        explained = _table_of(text, heading, "column")
        assert len(explained) == len(set(explained)), name
        assert set(explained) == _columns(encoded_run, name), name
    for name, shared in STACKED.items():
        assert _columns(encoded_run, name) == {"participant", *_columns(encoded_run, shared)}
    known = [*ENCODED_SECTION_OF, *STACKED, "*_desc-highgamma_channels", "descriptions"]
    copied = {*encoded_run.rglob("*_electrodes.tsv")}
    listed = {path for name in known for path in encoded_run.rglob(f"{name}.tsv")}
    assert {*encoded_run.rglob("*.tsv")} == listed | copied


@pytest.mark.slow
def test_sidecars_of_encoding_and_tuning_are_on_the_page(encoded_run: Path) -> None:
    """What a model was tuned on, and with what it is compared, is in the sidecars alone."""
    text = (DOCS / "outputs.md").read_text("utf-8")
    known = {"Description", "Step", "Signature", "Bytes", "Simulated", "Sources", "TaskName"}

    def fields(path: Path) -> set[str]:
        sidecar = read_sidecar(path).items()
        return {k for k, v in sidecar if not (isinstance(v, dict) and "Description" in v)} - known

    tuned = next(encoded_run.rglob("tuning.tsv"))
    assert fields(tuned) == set(_table_of(text, "`tuning.json`", "field"))
    scores = next(encoded_run.rglob("sub-*_desc-encoding_scores.tsv"))
    heading = ENCODED_SECTION_OF["sub-*_desc-encoding_scores"]
    of_models = {f"`{key}`" for model in read_sidecar(scores)["Models"] for key in model}
    assert fields(scores) == set(_table_of(text, heading, "field"))
    assert all(key in _section(text, heading) for key in of_models)
    others = [*encoded_run.glob("group_*.tsv"), *encoded_run.glob("group_*_map.*[!n]")]
    others += [
        *encoded_run.rglob("*_desc-highgamma_ieeg.eeg"),
        *encoded_run.rglob("features/*.npy"),
    ]
    assert len(others) >= 12
    for path in others:
        missing = {name for name in fields(path) if f"`{name}" not in text}
        assert not missing, f"{path.name}: {sorted(missing)}"


def test_every_step_is_on_the_page() -> None:
    """People split runs by these names."""
    text = (DOCS / "options.md").read_text("utf-8")
    section = re.split(r"^## ", text.split("## The steps")[1], flags=re.MULTILINE)[0]
    _, *parts = re.split(r"^### Analysis `(.+)`$", section, flags=re.MULTILINE)
    found = dict(zip(parts[::2], map(_first_cells, parts[1::2]), strict=True))
    assert {analysis: tuple(names) for analysis, names in found.items()} == STEPS_OF


def test_every_space_is_on_the_page_with_its_family() -> None:
    """Whether coordinates are understood is the first question, and a wrong answer costs most."""
    text = (DOCS / "contacts.md").read_text("utf-8").split("## Spaces")[1].split("## ")[0]
    understood, refused = text.split("These are refused")
    listed = set()
    for row in understood.splitlines():
        cells = row.split("|")
        if len(cells) == 5 and cells[1].strip() in spaces.FAMILIES:
            names = re.findall(r"`([^`]+)`", cells[2])
            assert {spaces.family(name) for name in names} == {cells[1].strip()}
            listed |= set(names)
    assert listed == {name for names in spaces._MEMBERS.values() for name in names}
    named = {name.lower() for name in _first_cells(refused)}
    assert not any(spaces.is_usable(name) for name in named)
    assert set(spaces._REFUSED) - {""} <= named


def test_rules_of_selection_are_on_the_page() -> None:
    """A rule that is not in the table is not used by anybody."""
    text = (DOCS / "contacts.md").read_text("utf-8").split("## Selection")[1].split("## ")[0]
    assert tuple(_first_cells(text)) == RULES
    words = {"superior", "transverse", "middle", "banks", "supramarginal", "opercularis"}
    words |= {"triangularis", "orbitalis", "insula", "pre-", "postcentral"}
    assert len(words) == len(SPEECH_ROI)
    assert all(word in text for word in words)
    assert f"z = {VENTRAL_BELOW_MM:g} mm" in text


def test_numbers_on_the_page_are_those_of_the_code() -> None:
    """A number in prose outlives the constant that it was copied from."""
    text = " ".join((DOCS / "contacts.md").read_text("utf-8").split())
    kernel, config = Kernel(), Config()
    for words in (
        f"within {config.anatomy.max_distance:g} mm (`--atlas-max-distance`)",
        f"a ball of {config.anatomy.ball_radius:g} mm",
        f"`--radius` mm (default {config.selection.radius:g})",
        f"at most {config.selection.responsive_q:g} (`responsive_q`)",
        f"change place, {N_PERMUTATIONS:,} times",
        f"Gaussian of {kernel.fwhm:g} mm full width at half maximum, cut off at {kernel.radius:g}",
        f"sum to at least {kernel.min_density:g}, which is one contact at {kernel.fwhm / 2:g} mm",
        f"further than {MAX_DEPTH_MM:g} mm from the middle",
        "borders at {}, {}, {}, {} and {},".format(*brain.STEPS),
        f"q ≤ {brain.Q:g}",
    ):
        assert words in text, words
    assert {5: "five"}[MIN_PARTICIPANTS] in text
    outputs = (DOCS / "outputs.md").read_text("utf-8")
    assert re.search(r"\W+".join(map(str, SHAPE)), outputs)


def test_numbers_on_the_page_of_encoding_are_those_of_the_code() -> None:
    """A default that was changed is otherwise still told to those who write their methods."""
    text = " ".join((DOCS / "encoding.md").read_text("utf-8").split())
    encoding, fmri = Config().encoding, Config().fmri
    reach = round(encoding.max_lag * encoding.rate)
    (theta, alpha, beta, gamma), high = (BAND_EDGES.values(), encoding.high_gamma)
    six = contrast_over_participants(
        [0.1] * 6, [1.0] * 6, n_samples=64, rng=np.random.default_rng(0)
    )
    for words in (
        "theta {:g} to {:g} Hz, alpha {:g} to {:g}, beta {:g} to {:g}, gamma {:g} to {:g}".format(
            *theta, *alpha, *beta, *gamma
        ),
        "high-gamma {:g} to {:g}".format(*high),
        f"one of {2 * reach + 1} lags from -{encoding.max_lag:g} to {encoding.max_lag:g} s",
        f"{encoding.context + encoding.max_lag:g} s (context plus longest lag) are left out",
        f"The first {encoding.context:g} s of each sound are left out",
        f"N times, by at least {MIN_SHIFT:g} s",
        f"N is {encoding.n_permutations:,}, or {1 / RESPONSIVE_Q:g} per electrode",
        f"shorter than {MIN_SHIFT / EXCLUDED:g} s",
        f"drifts slower than {DRIFT:g} s",
        f"hears {encoding.context:g} s of sound every {fmri.stride:g} s",
        f"delayed by {fmri.delays[0]} to {fmri.delays[-1]} volumes",
        f"(LoRA, rank {fmri.rank})",
        f"readout of width {fmri.readout}",
        f"resamples blocks of {Config().evaluation.block:g} s",
        f"how many it would take for {six.target:g}",
        f"rounded to {GAIN_STEP:g} dB",
        f"{encoding.rate * 1800:,.0f} passes for half an hour",
    ):
        assert words in text, words
    assert six.p_min <= 0.05 < 2 * six.p_min  # six are the fewest, five are too few
    model, layer = DEFAULT_MODELS["wavlm"]
    assert f"(`{model}`), layer {layer}." in text
