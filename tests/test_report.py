"""The reports: complete, self-contained, escaped, honest about what is missing, reproducible."""

from __future__ import annotations

import html.parser
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bids_speechdecode.report import figures, methods
from bids_speechdecode.report.electrode_tables import Described
from bids_speechdecode.report.group import write_group_report
from bids_speechdecode.report.page import clock, interval, make_concluded_table, number, p_phrase
from bids_speechdecode.report.participant import (
    list_messages,
    read_results,
    write_participant_report,
)
from bids_speechdecode.report.where import electrodes_in_words, regions_in_words

HOSTILE = "<script>alert(1)</script>"
COMMAND = "bids_speechdecode /data /out participant --participant-label 01 --target mel"
CONDITION_TO_RANK = {
    "backward": 0.36,
    "linear": 0.33,
    "taskonly": 0.30,
    "zeroshot": 0.41,
    "frozen": 0.25,
    "finetuned": 0.19,
}
FEW = ("taskonly", "frozen", "finetuned")  # for the tests that draw a page again
CONTRASTS = ("finetuned-taskonly", "finetuned-zeroshot", "finetuned-linear", "taskonly-backward")


# ------------------------------------------------------------------- fixture: invented numbers


def _write_tsv(path: Path, rows: list[dict[str, object]] | pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False, na_rep="n/a")


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1))


def _score_row(condition: str, audio: str, rank: float, n_test: int = 240) -> dict[str, object]:
    return {
        "condition": condition,
        "audio": audio,
        "task": "ambient" if condition == "pretrained" else "audiobook",
        "n_train_windows": 9120 if condition in ("pretrained", "zeroshot") else 840,
        "n_test_windows": n_test,
        "n_blocks": 24,
        "relative_rank": rank,
        "ci_low": rank - 0.034,
        "ci_high": rank + 0.037,
        "p_shift": 0.0005 if rank < 0.4 else 0.0125,
        "p_shuffle": 0.0005,
        "top1": 0.04,
        "top5": 0.14,
        "top10": 0.23,
        "null_shift_rank": 0.501,
        "null_shift_low": 0.452,
        "null_shift_high": 0.549,
        "null_shuffle_rank": 0.5,
        "null_shuffle_low": 0.463,
        "null_shuffle_high": 0.536,
        "target": "mel",
        "pooling": "mean",
        "simulated": "true",
    }


def _fixture_scores(folder: Path, name: str, shift: float, few: bool) -> None:
    """Write score tables, ranks per window and null draws."""
    rng = np.random.default_rng(int(name[-2:]))
    rows = []
    keys = [(c, a) for a in ("true", "ambient") for c in CONDITION_TO_RANK]
    keys = [(c, "true") for c in FEW] if few else keys
    for condition, audio in [*keys, ("pretrained", "ambient")]:
        mean = CONDITION_TO_RANK.get(condition, 0.22) + shift + 0.04 * (audio == "ambient")
        row = _score_row(condition, audio, round(mean, 4))
        rows.append(row)
        room = audio == "ambient" and condition != "pretrained"
        desc = f"{condition}Ambient" if room else condition
        stem = f"{name}_task-{row['task']}"
        draws = {
            f"null_{kind}_draws": rng.normal(0.5, width, 500).round(6).tolist()
            for kind, width in (("shift", 0.025), ("shuffle", 0.019))
        }
        _write_json(folder / f"{stem}_desc-{desc}_scores.json", {**row, **draws})
        ranks = rng.beta(1.0, 1 / mean - 1, 240)
        onsets = 3.0 * np.arange(240)
        events = pd.DataFrame({"onset": onsets, "duration": 3.0, "audio": audio, "rank": ranks})
        _write_tsv(folder / f"{stem}_run-01_desc-{desc}_events.tsv", events)
    _write_tsv(folder / f"{name}_task-audiobook_desc-conditions_scores.tsv", rows)
    notes = {"linear (true)": ["24 blocks: intervals are a little narrow"]}
    _write_json(folder / f"{name}_task-audiobook_desc-conditions_scores.json", {"Notes": notes})
    contrasts = [
        {
            "contrast": contrast,
            "audio": audio,
            "difference": -0.11 + 0.03 * i,
            "ci_low": -0.15 + 0.03 * i,
            "ci_high": -0.07 + 0.03 * i,
            "p": (0.001, 0.004, 0.031, 0.21)[i],
            "n_blocks": 24,
        }
        for audio in ("true", "ambient")
        for i, contrast in enumerate(CONTRASTS)
    ]
    _write_tsv(folder / f"{name}_task-audiobook_desc-contrasts_scores.tsv", contrasts)


def _fixture_histories(folder: Path, name: str) -> None:
    for i, model in enumerate(("linear", "taskonly", "pretrained", "frozen", "finetuned")):
        epoch = np.arange(1, 31 + 3 * i)
        history = pd.DataFrame(
            {
                "epoch": epoch,
                "train_loss": 1.5 + 3.3 * np.exp(-epoch / (6 + 2 * i)),
                "val_loss": 3.2 + 1.5 * np.exp(-epoch / 7) + 0.004 * epoch,
                "val_rank": 0.21 + 0.02 * (4 - i) + 0.28 * np.exp(-epoch / 5) + 0.001 * epoch,
                "learning_rate": 3e-4,
                "seconds": 1.0,
            }
        )
        task = "ambient" if model == "pretrained" else "audiobook"
        _write_tsv(folder / f"{name}_task-{task}_desc-{model}_history.tsv", history)


def _fixture_recording(label: str, task: str, hostile: str) -> dict[str, object]:
    room = task == "ambient"
    segment = {
        "stimulus": "room.wav" if room else f"book{hostile}.wav",
        "version": "ambient" if room else "true",
        "start": 12.4,
        "stop": 1150.0 if room else 1380.0,
        "slope": 1.0000123,
        "offset": -12.4,
        "drift_ppm": 12.3,
        "residual_ms": 0.8,
        "n_anchors": 7,
        "reading": "several anchors on one file: a line was fitted",
    }
    heard = [segment]
    if not room:
        heard.append({**segment, "version": "ambient", "stimulus": "room.wav", "n_anchors": 1})
        heard[1] |= {"residual_ms": None, "reading": "one row for a long file"}
    return {
        "label": label,
        "role": "pretrain" if room else "finetune",
        "format": "brainvision",
        "sampling_frequency": 1024.0,
        "duration": 1200.0 if room else 1440.0,
        "n_channels": 42,
        "kept": 36,
        "dropped": {"bad: noisy": 3, "type ECG": 1, "type AUDIO": 2},
        "split": "train" if room else "blocks",
        "alignment": heard,
        "windows": {"train": 280, "val": 40, "test": 80},
        "windows_left_out": 4,
        "notes": ["channels.tsv starts with a byte order mark"],
    }


def _fixture_signals(folder: Path, labels: list[str]) -> None:
    """Write the spectra of every recording."""
    rng = np.random.default_rng(1)
    frequency = np.linspace(0, 512, 1025)
    before = 1e-10 / (0.5 + frequency) ** 1.6 + 4e-13 * np.exp(-((frequency - 50) ** 2) / 0.5)
    after = np.where(frequency < 20, 4 / (0.3 + frequency) ** 1.4, np.nan)
    for label in labels:
        noise = np.exp(0.12 * rng.standard_normal((2, len(frequency))))
        spectra = {"frequency": frequency, "before": before * noise[0], "after": after * noise[1]}
        _write_tsv(folder / f"{label}_desc-preproc_spectra.tsv", pd.DataFrame(spectra))


REGIONS = ("superiortemporal", "middletemporal", "insula", None)


def _fixture_electrodes(folder: Path, name: str) -> None:
    """Write where 36 contacts on four shafts lie, why each was kept, and what it contributes."""
    rng = np.random.default_rng(int(name[-2:]))
    names = [f"{shaft}{i}" for shaft in "ABCD" for i in range(1, 10)] + [f"X{HOSTILE}", "ECG1"]
    names[0] = f"A1{HOSTILE}"  # a kept contact: it enters figures and the view
    rows = []
    for i, contact in enumerate(names):
        shaft, along = contact[0], i % 9
        side = -1 if shaft in "AC" else 1
        here = {"x": side * (30.0 + 3.5 * along), "y": -10.0 - 8 * (i // 9), "z": 5.0 + i // 9}
        row = {"name": contact, "type": "SEEG", "units": "n/a", "low_cutoff": np.nan}
        row |= {"high_cutoff": np.nan, "kept": "true", "reason": "within the regions chosen"}
        row |= {"good_fraction": 0.98, "group": shaft, **here, "space": "MNI152"}
        row |= {"source_space": "MNI152NLin2009aSym", "label": REGIONS[along // 3 if along else 3]}
        row |= {"hemisphere": "L" if side < 0 else "R", "distance": 1.5, "tissue": "grey matter"}
        rows.append(row)
    rows[2] |= {"kept": "false", "reason": f"bad: noisy {HOSTILE}"}
    rows[-2] |= {"kept": "false", "reason": "no position", "label": None, "x": np.nan}
    rows[-1] |= {"type": "ECG", "kept": "false", "reason": "type ECG", "label": None, "x": np.nan}
    table = pd.DataFrame(rows)
    _write_tsv(folder / f"{name}_task-audiobook_desc-selected_channels.tsv", table)
    notes = {"Notes": [f"2 contacts lie outside the brain: A9, {HOSTILE}"]}
    notes |= {"Signature": "of channels"}
    _write_json(folder / f"{name}_task-audiobook_desc-selected_channels.json", notes)
    found = table[table["kept"] == "true"].drop(columns=["kept", "reason", "good_fraction"])
    model = {"Signature": "of model", "Channels": found["name"].tolist()}
    _write_json(folder / f"{name}_task-audiobook_desc-finetuned_model.json", model)
    peak = found["group"].eq("A") & found["x"].between(-55, -40)
    value = 0.03 * peak + rng.normal(0, 0.003, len(found))
    found = found.assign(contribution=value, ci_low=value - 0.006, ci_high=value + 0.006)
    found = found.assign(p=0.4, p_min=0.001, q=np.where(peak, 0.004, 0.6))
    found = found.assign(rank_alone=0.48 - value)
    found = found.assign(alone_ci_low=0.41, alone_ci_high=0.49, shaft_contribution=0.05)
    found = found.assign(shaft_ci_low=0.03, shaft_ci_high=0.07, shaft_p=0.001, shaft_q=0.002)
    found = found.assign(
        integrated_gradient=value / value.sum(), redundancy=0.01, nearest_neighbour_r=0.8
    )
    _write_tsv(folder / f"{name}_task-audiobook_desc-contrib_channels.tsv", found)
    sidecar = {"Model": "finetuned", "MeanRank": 0.17, "NWindows": 240, "NBlocks": 24}
    sidecar |= {"Repeats": 50, "Notes": ["neighbours share signal: read shafts, not contacts"]}
    sidecar |= {"SelectedSignature": "of channels", "ModelSignature": "of model"}
    _write_json(folder / f"{name}_task-audiobook_desc-contrib_channels.json", sidecar)


def _fixture_log(folder: Path, hostile: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(
        '[target]\nname = "mel"\npooling = "frames"\n[windows]\nduration = 4.0\n'
        '[encoder]\npreset = "small"\n[finetune]\nbatch_size = 64\n'
    )
    packages = {"torch": "2.13.0", "mne": "1.13.0", "transformers": "5.0.0"}
    _write_json(folder / "environment.json", {"python": "3.11.7", "packages": packages})
    (folder / "log.txt").write_text(
        "2026-01-01 10:00:00,000 INFO preprocess sub-01\n"
        f"2026-01-01 10:00:01,000 WARNING run 3 is left out: {hostile}\n  expected: 36 channels\n"
        "2026-01-01 10:00:02,000 WARNING gain drifts\n2026-01-01 10:00:03,000 WARNING gain drifts\n"
        "2026-01-01 10:00:04,000 ERROR sub-02 failed\n"
    )
    return folder


def write_fixture_participant(
    root: Path, participant: str, shift: float = 0.0, few: bool = False
) -> Path:
    """Write an INVENTED participant with the files that the participant level writes."""
    name, folder = f"sub-{participant}", root / f"sub-{participant}" / "ieeg"
    description = {"Name": "bids_speechdecode (simulated)", "DatasetType": "derivative"}
    _write_json(root / "dataset_description.json", description)
    labels = [f"{name}_task-ambient_run-{i:02}" for i in range(1, 5)]
    labels += [f"{name}_task-audiobook_run-{i:02}" for i in range(1, 4)]
    recordings = [_fixture_recording(x, re.findall("task-([a-z]+)", x)[0], HOSTILE) for x in labels]
    why = f"the file is truncated {HOSTILE}"
    left_out = [{"what": f"{name}_task-ambient_run-09", "why": why}]
    plan = {"participant": participant, "simulated": True, "recordings": recordings}
    _write_json(folder / f"{name}_desc-plan_windows.json", {**plan, "left_out": left_out})
    _fixture_scores(folder, name, shift, few)
    _fixture_histories(folder, name)
    _fixture_signals(folder, labels)
    if not few:
        _fixture_electrodes(folder, name)
    return _fixture_log(root / name / "log" / "20260101T100000000", HOSTILE)


def write_fixture_group(root: Path, n: int = 3, few: bool = False) -> None:
    """Write an INVENTED group of `n` participants, one more of whom has only a folder."""
    rows, contrasts = [], []
    for i in range(1, n + 1):
        write_fixture_participant(root, f"{i:02}", shift=0.02 * (i - 2), few=few)
        folder = root / f"sub-{i:02}" / "ieeg"
        for kind, target in (("conditions", rows), ("contrasts", contrasts)):
            path = folder / f"sub-{i:02}_task-audiobook_desc-{kind}_scores.tsv"
            table = pd.read_csv(path, sep="\t", na_values="n/a")
            table.insert(0, "participant", f"sub-{i:02}")
            target.append(table.assign(task="audiobook") if kind == "contrasts" else table)
    (root / "sub-99" / "log").mkdir(parents=True)
    everybody, differences = pd.concat(rows), pd.concat(contrasts)
    _write_tsv(root / "group_desc-participants_scores.tsv", everybody)
    _write_tsv(root / "group_desc-participantContrasts_scores.tsv", differences)
    left_out = [{"what": "sub-98", "why": f"no results: not run, or run failed {HOSTILE}"}]
    _write_json(root / "group_desc-participants_scores.json", {"LeftOut": left_out})
    p = {"p": 1 / 2**n, "p_min": 1 / 2**n, "n_better": n, "n_participants": n}
    verdict = f"cannot be concluded from {n} participants: the smallest possible p is {1 / 2**n:g}"
    for kind, table, keys, value in (
        ("conditions", everybody, ["condition", "audio", "task"], "relative_rank"),
        ("contrasts", differences, ["contrast", "audio"], "difference"),
    ):
        mean = table.groupby(keys, sort=False)[value].mean().reset_index()
        mean = mean.rename(columns={"relative_rank": "mean_rank"})
        low_high = {"ci_low": mean.iloc[:, -1] - 0.05, "ci_high": mean.iloc[:, -1] + 0.05}
        table = mean.assign(**low_high, **p, conclusion=verdict)
        _write_tsv(root / f"group_task-audiobook_desc-{kind}_scores.tsv", table)
    if not few:
        _fixture_group_electrodes(root, n)


def _fixture_group_electrodes(root: Path, n: int) -> None:
    """Write the group's tables of contributions, with one region seen in too few participants."""
    contacts = []
    for i in range(1, n + 1):
        path = root / f"sub-{i:02}/ieeg/sub-{i:02}_task-audiobook_desc-contrib_channels.tsv"
        table = pd.read_csv(path, sep="\t", na_values="n/a").drop(columns=["q"])
        contacts.append(table.assign(participant=f"sub-{i:02}"))
    everything = pd.concat(contacts)
    keys = ["label", "hemisphere"]
    own = everything.groupby(["participant", *keys])["contribution"].agg(["mean", "size"])
    own = own.rename(columns={"size": "n_contacts"}).reset_index()
    parcels = own.groupby(keys).agg(mean=("mean", "mean"), n_contacts=("n_contacts", "sum"))
    parcels = parcels.reset_index().assign(n_participants=n, coverage=1.0)
    tests = {"ci_low": parcels["mean"] - 0.01, "ci_high": parcels["mean"] + 0.01, "p": 0.03}
    parcels = parcels.assign(**tests, p_min=1 / 2**n, q=0.06, conclusion="no evidence")
    parcels.loc[0, ["ci_low", "ci_high", "p", "p_min", "q"]] = np.nan
    parcels.loc[0, "conclusion"] = "seen in 1 of 3 participants: not tested"
    pair = {"region_1": "insula", "region_2": "superiortemporal", "n_participants": n}
    pair |= {"difference": -0.01, "ci_low": -0.02, "ci_high": 0.001, "p": 0.07, "p_min": 0.001}
    auditory = {
        "participant": [f"sub-{i:02}" for i in range(1, n + 1)],
        "n_auditory": np.arange(n),
        "distance_auditory": 12.0 - 3 * np.arange(n),
        "benefit_pretraining": 0.05 + 0.02 * np.arange(n),
    }
    correlation = {"benefit": "benefit_pretraining", "coverage": "distance_auditory"}
    correlation |= {"n_participants": n, "rho": -1.0, "p": 0.33, "p_min": 0.33}
    correlation |= {"conclusion": "too few participants to conclude"}
    sidecar = {"Model": "finetuned", "Notes": [f"{n} of {len(everything)} have no label"]}
    for desc, table in (
        ("contacts", everything),
        ("parcels", parcels),
        ("parcelsByParticipant", own),
        ("regions", pd.DataFrame([pair | {"q": 0.1, "conclusion": "no difference shown"}])),
        ("auditory", pd.DataFrame(auditory)),
        ("auditoryCorrelation", pd.DataFrame([correlation])),
    ):
        _write_tsv(root / f"group_task-audiobook_desc-{desc}_contributions.tsv", table)
        _write_json(root / f"group_task-audiobook_desc-{desc}_contributions.json", sidecar)


# ------------------------------------------------------------------------------------ helpers


class _Page(html.parser.HTMLParser):
    """Collects identifiers and every address that a browser would load by itself."""

    VOID = frozenset({"meta", "link", "br", "wbr", "hr", "img", "input", "source", "base", "embed"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.inner: list[str] = []  # pages inside the page
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "iframe":
            given = dict(attrs)
            assert given["sandbox"] == "allow-scripts"  # an origin of its own, and no more rights
            self.inner.append(given["srcdoc"] or "")
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name == "href" and tag == "a":
                self.links.append(value or "")
            elif name in ("src", "href", "xlink:href", "data", "srcset", "action", "poster"):
                self.loaded.append(value or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()} closes another element"


def _text(page: str) -> str:
    return re.sub(r"\s+", " ", page)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fixture_derivatives")
    write_fixture_group(root)
    write_participant_report(root, "01", command=COMMAND, log_dir=None)
    write_group_report(root, command=COMMAND.replace("participant", "group"))
    return root


@pytest.fixture(scope="module")
def page(tree: Path) -> str:
    return (tree / "sub-01.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def group_page(tree: Path) -> str:
    return (tree / "group.html").read_text(encoding="utf-8")


# -------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("name", ["sub-01.html", "group.html"])
def test_page_is_well_formed_and_needs_no_network(tree: Path, name: str) -> None:
    # A report is mailed and archived: whatever it loads from elsewhere will be gone or a leak.
    text = (tree / name).read_text(encoding="utf-8")
    parsed = _Page(text)
    assert parsed.open == []
    assert all(t.startswith(("#", "data:image/png;")) for t in parsed.loaded)
    assert not {"link", "object", "embed", "img", "base"} & set(parsed.tags)
    without_view = re.sub(r"<iframe.*?</iframe>", "", text, flags=re.S)
    assert "@import" not in without_view
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", without_view))
    assert len(parsed.inner) == 1  # the view is megabytes: once per report
    view = _Page(parsed.inner[0])
    assert view.loaded == []
    assert "default-src 'none'" in parsed.inner[0]
    assert HOSTILE not in parsed.inner[0]


@pytest.mark.parametrize("name", ["sub-01.html", "group.html"])
def test_identifiers_are_unique_and_inner_links_lead_somewhere(tree: Path, name: str) -> None:
    # Two pictures that share an identifier borrow each other's clip paths and markers.
    parsed = _Page((tree / name).read_text(encoding="utf-8"))
    assert len(parsed.ids) == len(set(parsed.ids))
    for link in parsed.links:
        if link.startswith("#"):
            assert link[1:] in parsed.ids, link
        elif not link.startswith("https://"):
            assert (tree / link).is_file(), link


def test_all_sections_exist_and_are_in_the_menu(page: str, group_page: str) -> None:
    # Issue 2, point 12, lists what a report must show.
    wanted = ["summary", "conditions", "contrasts", "ranks", "data", "alignment", "spectra"]
    wanted += ["training", "electrodes", "contributions", "methods", "provenance", "messages"]
    parsed = _Page(page)
    for section in wanted:
        assert section in parsed.ids
        assert f"#{section}" in parsed.links
    assert 'class="missing"' not in page
    for section in [
        "summary",
        "participants",
        "conditions",
        "contrasts",
        "electrodes",
        "left-out",
        "methods",
    ]:
        assert section in _Page(group_page).ids


def test_text_of_the_dataset_is_escaped_everywhere(page: str, group_page: str) -> None:
    # A channel, stimulus, reason or log line must never become code in the reader's browser.
    assert HOSTILE not in page
    assert HOSTILE not in group_page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 4  # stimulus, channel, why, log
    assert "&lt;script&gt;" in group_page
    assert _Page(page).tags.count("script") == 1  # the report's own


def test_hostile_text_in_a_figure_is_drawn_literally() -> None:
    # Labels of recordings enter the inline SVG; a dollar sign must not start a formula either.
    recording = {"label": f"a$b^{HOSTILE}$c", "duration": 10.0, "alignment": []}
    from bids_speechdecode.report.page import figure_svg

    svg = figure_svg(figures.aligned_audio([recording]), "x")
    assert HOSTILE not in svg
    texts = "".join(element.text or "" for element in ET.fromstring(svg).iter())
    assert f"a$b^{HOSTILE}$c" in texts


def test_figures_are_saved_beside_the_report(tree: Path) -> None:
    # Authors take figures out of the folder, not out of the page.
    saved = sorted(path.stem for path in (tree / "sub-01" / "figures").glob("*.svg"))
    names = ["alignment", "conditions", "nulls", "ranks", "spectra", "training"]
    brains = ["agreement", "contributions", "regions", "selection", "shafts"]
    expected = [f"sub-01_desc-{name}" for name in names]
    assert saved == expected + [f"sub-01_task-audiobook_desc-{name}" for name in brains]
    for path in (tree / "sub-01" / "figures").glob("*.svg"):
        assert "simulated data" in path.read_text()
        ET.parse(path)  # a stand-alone file must be valid XML


def test_summary_names_the_best_condition_with_its_interval(page: str) -> None:
    # Most readers stop after this sentence; sub-01's finetuned rank is 0.19 - 0.02.
    text = _text(page)
    assert "The best condition was “Pretrained + finetuned”: among 240 held-out windows" in text
    assert "relative rank 0.170 on average (95% CI 0.136 to 0.207; chance 0.500" in text
    assert "p &lt; 0.001 against time-shifted pairing" in text
    assert "0.110 lower (better) than with the task data alone" in text


def test_electrodes_are_told_in_tables(page: str, group_page: str) -> None:
    # Whoever cannot see the pictures, or their colours, needs the same in numbers and words.
    text = _text(page)
    assert "to the model “Pretrained + finetuned”, whose mean relative rank is 0.170 on 240" in text
    assert "neighbours share signal: read shafts, not contacts" in text
    first = re.search(r'by contribution, the highest first.*?<th scope="row">(A\d)</th>', text)
    assert first
    assert "middletemporal L" in text
    assert "outside the atlas" in text
    assert "seen in 1 of 3 participants: not tested" in _text(group_page)
    assert "insula against superiortemporal" in _text(group_page)
    assert "too few participants to conclude" in _text(group_page)


def test_summary_says_where(page: str, group_page: str) -> None:
    # Clinicians ask first where; the fixture plants shaft A, whose electrodes lie on the left.
    text = _text(re.sub(r"<[^>]*>", "", page))
    assert re.search(r"Where: \d of 35 electrodes help on their own in the model “Pretr", text)
    assert re.search(
        r"permuting the first, A\d \((\d\.\d mm from )?\w+ L\), costs 0\.03\d of mean relative",
        text,
    )
    assert re.search(r"The strongest shaft is \w \(\d electrodes, mostly \w+ [LR]\): perm", text)
    assert "costs 0.050 (95% CI 0.030 to 0.070; p = 0.001); 4 of 4 shafts" in text.replace(
        "\N{NO-BREAK SPACE}", " "
    )
    group = _text(group_page)
    assert (
        "regions with electrodes were seen in at least 5 participants and tested; in none" in group
    )
    assert "which is not evidence that none contributes" in group


def test_untested_regions_are_said_to_be_untested() -> None:
    # With two participants the page must not read as if no region mattered.
    table = pd.DataFrame({"label": ["insula"], "hemisphere": ["L"], "n_participants": [2]})
    table = table.assign(mean=0.01, ci_low=np.nan, ci_high=np.nan, p=np.nan, q=np.nan)
    found = Described(table, {"MinParticipants": 7})
    [sentence] = regions_in_words(found, pd.DataFrame())
    assert "no region was tested" in sentence
    assert "at least 7" in sentence
    assert "more than 2" in sentence


def test_no_electrode_on_its_own_is_not_no_electrode() -> None:
    # Neighbours stand in for each other, so a summary of single electrodes alone would mislead.
    table = pd.DataFrame({"name": ["A1", "A2"], "group": "A", "contribution": [0.01, 0.0]})
    table = table.assign(label=None, hemisphere=None, ci_low=-0.1, ci_high=0.1, p=0.2, q=0.2)
    table = table.assign(shaft_contribution=0.2, shaft_ci_low=0.1, shaft_ci_high=0.3)
    table = table.assign(shaft_p=0.001, shaft_q=0.001, redundancy=0.19)
    single, shaft = electrodes_in_words(Described(table, {}), "95%")
    assert "of 2 electrodes none reaches q ≤ 0.05 on its own" in single
    assert "does not show that none matters" in single
    assert "The strongest shaft is A (2 electrodes, in no region of the atlas)" in shaft


def test_tables_of_single_recordings_are_not_the_participants(tmp_path: Path) -> None:
    # A run before the selection was the participant's left such tables; they are no selection.
    folder = tmp_path / "sub-01" / "ses-1" / "ieeg"
    for desc in ("selected", "contrib"):
        stem = f"sub-01_ses-1_task-ambient_run-1_desc-{desc}_channels.tsv"
        _write_tsv(folder / stem, [{"name": "A1", "kept": "true"}])
        _write_tsv(tmp_path / "sub-01" / "ieeg" / stem, [{"name": "A1", "kept": "true"}])
        own = tmp_path / "sub-01" / "ieeg" / f"sub-01_task-book_desc-{desc}_channels.tsv"
        _write_tsv(own, [{"name": "A1", "kept": "true"}])
    signed = {"Signature": "s", "Model": "m", "SelectedSignature": "s", "ModelSignature": "s"}
    for end in ("selected_channels", "contrib_channels", "m_model"):
        _write_json(tmp_path / "sub-01" / "ieeg" / f"sub-01_task-book_desc-{end}.json", signed)
    results = read_results(tmp_path / "sub-01", None)
    assert list(results.selections) == list(results.contributions) == ["book"]


@pytest.mark.parametrize("name", ["sub-01.html", "group.html"])
def test_every_picture_says_its_numbers(tree: Path, name: str) -> None:
    # Whoever listens to the page hears the numbers, not only the name of the picture.
    text = re.sub(r"<iframe.*?</iframe>", "", (tree / name).read_text("utf-8"), flags=re.S)
    words = re.findall(r'role="img" aria-label="([^"]*)"', text)
    assert len(words) == len(re.findall(r"<svg", text))
    for alternative in words:
        assert len(re.findall(r"\d", alternative)) >= 3, alternative
        assert "nan" not in alternative.split(), alternative


def test_what_all_rows_share_is_said_once() -> None:
    # The same sentence in every row hides what differs between the rows.
    rows = [("first", "1"), ("second", "2")]
    texts = ["Two participants: p <= 0.05 is impossible. 2 of 2 better.", ""]
    same = make_concluded_table(["Row", "n"], rows, texts[:1] * 2)
    assert same.columns == ("Row", "n")
    assert same.shared == "Two participants: p ≤ 0.05 is impossible. 2 of 2 better."
    texts[1] = texts[0].replace("2 of 2", "1 of 2")
    differing = make_concluded_table(["Row", "n"], rows, texts)
    assert differing.shared == "Two participants: p ≤ 0.05 is impossible."
    assert [row[-1] for row in differing.rows] == ["2 of 2 better.", "1 of 2 better."]
    assert make_concluded_table(["Row", "n"], rows[:1], texts[:1]).rows[0][-1].startswith("Two")


def test_simulated_data_say_so(tree: Path, page: str, group_page: str, tmp_path: Path) -> None:
    # An invented number that looks real is the worst thing a report can show.
    assert "Simulated data." in page
    assert "Simulated data." in group_page
    report = write_participant_report(tmp_path, "07", command="x", log_dir=None)
    assert "Simulated data." not in report.read_text()


def test_missing_pieces_are_named_with_the_step_that_makes_them(tmp_path: Path) -> None:
    # A report after half a run must say what is missing, not fail and not look complete.
    (tmp_path / "sub-07").mkdir()
    text = write_participant_report(tmp_path, "07", command="x", log_dir=None).read_text()
    for words, step in (
        ("plan of recordings and windows", "preprocess"),
        ("power spectra", "preprocess"),
        ("table of selected channels", "select"),
        ("table of contributions", "contributions"),
        ("training history", "finetune"),
        ("scores of conditions", "evaluate"),
        ("null distributions", "evaluate"),
    ):
        assert f"No {words} found: run step &#39;{step}&#39;." in text
    assert "No config.toml found" in text
    assert "There is no result yet" in text
    assert _Page(text).open == []
    group = write_group_report(tmp_path, command="x").read_text()
    assert "No group table of conditions found" in group
    assert "No group table of contributions found" in group
    assert "sub-07" in group


@pytest.mark.parametrize("third", range(3))
def test_missing_files_do_not_break_the_other_sections(tmp_path: Path, third: int) -> None:
    # Any derivative may be absent: every third kind of file is hidden, in three turns.
    write_fixture_participant(tmp_path, "01", few=True)
    files = sorted((tmp_path / "sub-01" / "ieeg").iterdir())
    kinds = sorted({re.sub(r"^.*_(?=desc|electrodes)", "", path.name) for path in files})
    for path in files:
        if path.name.endswith(tuple(kinds[third::3])):
            path.unlink()
    text = write_participant_report(tmp_path, "01", command="x", log_dir=None).read_text()
    assert _Page(text).open == []
    assert 'id="messages"' in text


def test_nan_is_a_dash_and_never_a_score(tmp_path: Path) -> None:
    # 'nan' in a table, or a condition without a rank called the best, would be taken for a result.
    write_fixture_participant(tmp_path, "01", few=True)
    path = tmp_path / "sub-01" / "ieeg" / "sub-01_task-audiobook_desc-conditions_scores.tsv"
    table = pd.read_csv(path, sep="\t", na_values="n/a")
    table.loc[table["condition"] == "finetuned", "relative_rank"] = np.nan
    table.loc[table["condition"] == "frozen", ["ci_low", "ci_high", "p_shift"]] = np.nan
    _write_tsv(path, table)
    text = write_participant_report(tmp_path, "01", command="x", log_dir=None).read_text()
    assert "The best condition was “Finetuned, frozen encoder”" in text
    assert "This does not show decoding better than chance" in text
    without_style = re.sub(r"<svg.*?</svg>", "", text, flags=re.S)
    assert not re.search(r">\s*nan\s*<|\bnan\b", without_style)


def test_true_audio_alone_is_not_read_as_a_boolean(tmp_path: Path) -> None:
    # A column that says "true" in every row is turned into booleans by pandas, and every
    # comparison with the word "true" then silently fails.
    write_fixture_participant(tmp_path, "01", few=True)
    folder = tmp_path / "sub-01" / "ieeg"
    for path in folder.glob("*_scores.tsv"):
        table = pd.read_csv(path, sep="\t", na_values="n/a")
        _write_tsv(path, table[table["audio"] == "true"])
    for path in folder.glob("*desc-pretrained*"):
        path.unlink()
    results = read_results(tmp_path / "sub-01", None)
    assert list(results.ranks) == [(condition, "true") for condition in FEW]
    assert set(results.conditions["audio"]) == set(results.contrasts["audio"]) == {"true"}


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    # Reports are compared and archived; a date or a random identifier would make each one new.
    write_fixture_group(tmp_path, n=1, few=True)
    written = []
    for _ in range(2):
        write_participant_report(tmp_path, "01", command=COMMAND, log_dir=None)
        write_group_report(tmp_path, command=COMMAND)
        files = [*tmp_path.rglob("*.html"), *tmp_path.rglob("*.svg")]
        written.append({path: path.read_bytes() for path in files})
    assert len(written[0]) == 2 + 6 + 2
    assert written[0] == written[1]


def test_methods_follow_the_settings_of_the_run(page: str, tmp_path: Path) -> None:
    # A methods paragraph that describes the defaults while the run used others is a false report.
    text = _text(page)
    assert "mel spectrogram with 40 bands, not by a speech model" in text
    assert "Over each window of 4 s the features were kept as a time course at 10 Hz" in text
    assert "batches of 64" in text
    assert "arXiv:2512.15830" in text
    assert "Radford A, Kim JW, Hallacy C" in text
    path = tmp_path / "config.toml"
    path.write_text('[target]\nname = "hubert"\nmodel = "facebook/hubert-base-ls960"\nlayer = 9\n')
    settings = methods.read_settings(path)
    assert methods.describe_target(settings) == "HuBERT, layer 9"
    assert {"hubert", "transformers", "wav2vec2"} <= methods.cited_references(settings).keys()
    assert "whisper" not in methods.cited_references(settings)


def test_methods_tell_the_electrodes_of_the_run(page: str, group_page: str, tmp_path: Path) -> None:
    # A work that is cited without having been used is as wrong as one that is not cited.
    text = _text(page)
    assert "The models read all good channels." in text
    assert "(at least 1000 replaced windows for each)" in text
    for key in ("desikan", "abagen", "breiman", "benjamini", "sundararajan", "nilearn"):
        assert f'<li id="ref-{key}">' in page
    for key in ("lancaster", "freesurfer", "saravanan"):
        assert f'<li id="ref-{key}">' not in page
    assert '<li id="ref-saravanan">' in group_page
    path = tmp_path / "config.toml"
    path.write_text(
        '[selection]\nrules = ["roi", "radius", "responsive"]\nhemisphere = "left"\n'
        'center = "-60,-20,8"\n[encoder]\nspatial = "attention"\n'
        '[anatomy]\natlas = ["my_atlas.nii.gz", "labels.tsv"]\n'
    )
    settings = methods.read_settings(path)
    chosen = methods.describe_selection(settings)
    assert "lie in the left regions superiortemporal, transversetemporal" in chosen
    assert "within 10 mm of (-60,-20,8) in MNI152" in chosen
    assert "respond to sound" in chosen
    assert "channels without a position were dropped" in chosen
    assert methods.describe_atlas(settings) == "the atlas my_atlas.nii.gz"
    assert methods.describe_entry(settings) == "by position (spatial attention)"
    table = pd.DataFrame({"x": [1.0, np.nan], "source_space": ["Talairach", "fsaverage"]})
    found = methods.find_electrodes([table], is_contributed=False)
    cited = methods.cited_references(settings, found)
    assert {"lancaster", "benjamini"} <= cited.keys()
    assert not {"freesurfer", "desikan", "breiman"} & cited.keys()


def test_references_are_numbered_as_the_text_cites_them(page: str, group_page: str) -> None:
    # Journals want the first citation to be 1, the next new one 2.
    for text in (page, group_page):
        cited = list(dict.fromkeys(re.findall(r'<sup><a href="#ref-(\w+)">', text)))
        assert cited == re.findall(r'<li id="ref-(\w+)">', text)


def test_rewriting_reports_keeps_the_settings_of_the_computation(tmp_path: Path) -> None:
    # Reports written again, perhaps without the options of the run, must not change its methods.
    first = write_fixture_participant(tmp_path, "01", few=True)
    again = first.with_name("20260102T100000000")
    again.mkdir()
    (again / "config.toml").write_text('[target]\nname = "hubert"\n')
    (again / "command.txt").write_text("bids_speechdecode /data /out participant --reports-only")
    settings = read_results(tmp_path / "sub-01", again).settings
    assert settings is not None
    assert settings["target"]["name"] == "mel"


@pytest.mark.parametrize("words", ["--reports-only", "--steps report", "--steps=report -v"])
def test_rewriting_reports_keeps_the_warnings_of_the_computation(
    tmp_path: Path, words: str
) -> None:
    # A report written again would otherwise lose every warning, or say that there is no log.
    first = write_fixture_participant(tmp_path, "01", few=True)
    again = first.with_name("20260102T100000000")
    again.mkdir()
    (again / "command.txt").write_text(f"bids_speechdecode /data /out participant {words}\n")
    for text in ("", "2026-01-02 10:00:00,000 INFO report sub-01\n"):
        (again / "log.txt").write_text(text)
        lines = read_results(tmp_path / "sub-01", again).log_lines
        assert sum("WARNING" in line for line in lines) == 3
    (again / "command.txt").write_text("bids_speechdecode /data /out --steps report,evaluate")
    assert len(read_results(tmp_path / "sub-01", again).log_lines) == 1


def test_contributions_of_other_channels_are_not_shown(tmp_path: Path) -> None:
    # After another selection the old table explains channels and a model that are gone.
    write_fixture_participant(tmp_path, "01")
    start = tmp_path / "sub-01" / "ieeg" / "sub-01_task-audiobook"
    selected, model = (
        Path(f"{start}_desc-{end}.json") for end in ("selected_channels", "finetuned_model")
    )
    results = read_results(tmp_path / "sub-01", None)
    assert (set(results.contributions), dict(results.unfit)) == ({"audiobook"}, {})
    _write_json(selected, {**json.loads(selected.read_text()), "Signature": "another"})
    text = _text(write_participant_report(tmp_path, "01", command="x", log_dir=None).read_text())
    assert "they belong to other channels or another model" in text
    assert "Where:" not in text  # nor told of in the summary
    assert "Electrodes by contribution" not in text
    assert "scores belong to other channels" not in text
    kept = json.loads(model.read_text())["Channels"]
    _write_json(model, {"Signature": "of model", "Channels": kept[1:]})
    text = _text(write_participant_report(tmp_path, "01", command="x", log_dir=None).read_text())
    assert "read (finetuned), so the scores belong to other channels" in text


def test_open_choices_are_never_presented_as_the_papers(page: str) -> None:
    # The paper does not say which optimiser, blocks or test it used; ours must not look like its.
    for what in ("Optimiser", "Split of task data", "Test of ranks", "Reference"):
        row = re.search(rf'<th scope="row">{what}</th>.*?</tr>', page, flags=re.S)
        assert row
        assert "not stated" in row[0]


def test_group_page_shows_what_cannot_be_concluded(group_page: str) -> None:
    # With three participants no p-value below 1/8 is possible, and the page must say so.
    text = _text(group_page)
    assert "Cannot be concluded from 3 participants" in text
    assert "Smallest possible p" in text
    assert "sub-98" in text
    assert "not run, or run failed" in text
    assert "sub-99" in text  # a folder that the tables do not know
    assert '<a href="sub-01.html">' in group_page


def test_one_participant_and_one_epoch_can_be_drawn(tmp_path: Path) -> None:
    # The smallest run (a test of the installation) must not break an axis or a legend.
    write_fixture_group(tmp_path, n=1, few=True)
    folder = tmp_path / "sub-01" / "ieeg"
    for path in folder.glob("*_history.tsv"):
        _write_tsv(path, pd.read_csv(path, sep="\t").head(1))
    write_participant_report(tmp_path, "01", command="x", log_dir=None)
    assert "1 participant:" in write_group_report(tmp_path, command="x").read_text()


def test_messages_keep_level_details_and_count() -> None:
    # A warning repeated for 50 recordings must not hide the one error among them.
    lines = (
        "2026-01-01 10:00:00,000 INFO all well",
        "2026-01-01 10:00:01,000 WARNING slow",
        "2026-01-01 10:00:02,000 ERROR broken",
        "  found:    nothing",
        "2026-01-01 10:00:03,000 WARNING slow",
    )
    expected = [("WARNING", "slow", 2), ("ERROR", "broken\n  found:    nothing", 1)]
    assert list_messages(lines) == expected


def test_histogram_bars_are_percentages_of_the_windows() -> None:
    # The chance line (5% in 20 bins) means something only if the bars add up to 100%.
    ranks = np.concatenate([np.full(30, 0.01), np.full(10, 0.99), [np.nan]])
    axes = figures.rank_histograms({("linear", "true"): ranks}).axes[0]
    heights = [patch.get_height() for patch in axes.patches]
    assert heights[0] == pytest.approx(75)
    assert heights[-1] == pytest.approx(25)
    assert sum(heights) == pytest.approx(100)


def test_colours_are_distinct_and_importing_changes_no_matplotlib_setting() -> None:
    # One colour per condition in all figures; a library must leave the user's settings alone.
    assert len(set(figures.CONDITION_TO_COLOR.values())) == len(figures.CONDITION_TO_LABEL)
    assert len(set(figures.CONDITION_TO_MARKER.values())) == len(figures.CONDITION_TO_LABEL)
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.rank_histograms({("linear", "true"): np.array([0.5])})
    assert dict(matplotlib.rcParams) == before


def test_numbers_in_words() -> None:
    # Rounding and units of the one place where numbers become text.
    assert number(-0.1234) == "\N{MINUS SIGN}0.123"
    assert interval(0.1, float("nan")) == "\N{EN DASH}"
    assert p_phrase(0.0004) == "p\N{NO-BREAK SPACE}<\N{NO-BREAK SPACE}0.001"
    assert p_phrase(0.0312).split() == ["p", "=", "0.031"]
    assert [clock(9.0), clock(600.0), clock(7200.0)] == ["9.0 s", "10.0 min", "2.00 h"]
