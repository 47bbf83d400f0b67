"""The report of one participant, assembled from the derivatives on disk."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bids_speechdecode.bids.files import write_text
from bids_speechdecode.report import alternatives, figures, methods, tuning
from bids_speechdecode.report.electrodes import electrode_pages
from bids_speechdecode.report.encoding import methods as encoding_methods
from bids_speechdecode.report.encoding.participant import STEPS, asks_for_encoding, encoding_pages
from bids_speechdecode.report.encoding.results import any_simulated, read_encoding
from bids_speechdecode.report.experiments.pages import experiment_pages
from bids_speechdecode.report.figures import Key, condition_label
from bids_speechdecode.report.page import (
    Missing,
    Picture,
    add_picture,
    count,
    interval,
    is_simulated,
    number,
    p_phrase,
    render,
)
from bids_speechdecode.report.results import (
    Results,
    best_condition,
    confidence,
    latest_log,
    read_results,
)
from bids_speechdecode.report.starts import tell_starts
from bids_speechdecode.report.tables import make_tables, short_label
from bids_speechdecode.report.where import electrodes_in_words

MAX_ROWS_DRAWN = 40  # recordings in one figure; more would not fit a page


def write_participant_report(
    root: Path, participant: str, *, command: str, log_dir: Path | None
) -> Path:
    """Write ``sub-XX.html`` and its figures from the derivatives of one participant.

    Parameters
    ----------
    root : path
        The derivative dataset.
    participant : str
        Label without ``sub-``.
    command : str
        The command that was typed.
    log_dir : path or None
        Folder of the run's config.toml, environment.json and log.txt; None takes the latest.

    Returns
    -------
    path
        The report. Pieces that are not on disk are named in it, with the step that makes them.
    """
    folder = root / f"sub-{participant}"
    name = folder.name
    results = read_results(folder, log_dir or latest_log(folder))
    encoded = read_encoding(folder)
    simulated = is_simulated(root) or bool(results.plan.get("simulated"))
    simulated |= any_simulated(encoded)
    report = root / f"{name}.html"
    decoding = has_decoding(results) or not (encoded or asks_for_encoding(command))
    encoding = bool(encoded) or asks_for_encoding(command)
    missing = find_missing(results) if decoding else Missing()
    if encoding and not encoded:
        text = f"No table of predicted electrodes found: run {STEPS} (--analysis encoding)."
        missing.items["encoding"] = text
    selected = (found.table for found in results.selections.values())
    electrodes = methods.find_electrodes(selected, is_contributed=bool(results.contributions))
    run = encoding_methods.run_settings([folder], log_dir)
    level = f"{100 * (run['evaluation']['confidence'] if run else 0.95):g}%"
    pages = encoding_pages(report, name, encoded, level, simulated)
    target = tuning.decoded_with(root, results.settings) if decoding else None
    tuned = tuning.with_target(tuning.find_tuned(root, encoded.values(), run), target)
    told = summarise(results) if decoding else []
    told += [tuning.summarise_target(target)] if target else []
    told += tell_starts(folder) if decoding else []
    told += [sentence for page in pages for sentence in page.summary]
    experiments = experiment_pages(report, folder / "ieeg", name, simulated)
    explored = [page.name for page in experiments]
    html = render(
        "participant.html",
        title=name,
        participant=participant,
        simulated=simulated,
        command=command,
        decoding=decoding,
        encoding=encoding,
        missing=missing.items,
        summary=told or [NO_RESULT],
        tables=make_tables(results),
        pictures=draw_pictures(report, participant, results, simulated),
        electrode_pages=electrode_pages(
            report,
            name,
            results.selections,
            results.contributions,
            simulated,
        ),
        encoding_pages=pages,
        tuning=tuning.tuning_page(report, root / name / "figures", name, tuned, simulated),
        experiments=experiments,
        plan=results.plan,
        settings_text=results.settings_text,
        **encoding_methods.in_template(
            methods.in_template(
                results.settings, electrodes, tuning.describe_target(target), explored
            ),
            encoding_methods.find_encoded(encoded, run, tuning=tuning.tuning_in_words(tuned))
            if encoded
            else None,
            is_decoded=decoding,
        ),
        messages=list_messages(results.log_lines),
        log_found=bool(results.log_lines),
    )
    write_text(report, html)
    return report


NO_RESULT = "There is no result yet: the step 'encode' has not written any scores."


def has_decoding(results: Results) -> bool:
    """Return whether anything of the analysis ``decoding`` but its preparation is on disk."""
    tables = (results.conditions, results.contrasts)
    mappings = (results.contributions, results.ranks, results.histories)
    return any(map(len, tables)) or any(mappings) or bool(results.draws)


def find_missing(results: Results) -> Missing:
    """Name every piece that is absent or belongs to other results, and the step that makes it."""
    missing = Missing()
    for section, piece, what, step in (
        ("data", results.plan, "plan of recordings and windows", "preprocess"),
        ("selection", results.selections, "table of selected channels", "select"),
        ("contributions", results.contributions, "table of contributions", "contributions"),
        ("spectra", results.spectra, "power spectra", "preprocess"),
        ("training", results.histories, "training history", "finetune"),
        ("ranks", results.ranks, "ranks of test windows", "evaluate"),
        ("nulls", results.draws, "null distributions", "evaluate"),
        ("conditions", len(results.conditions), "scores of conditions", "evaluate"),
        ("contrasts", len(results.contrasts), "contrasts between conditions", "evaluate"),
    ):
        if not piece:
            missing.add(section, what, step)
    missing.items.update(results.unfit)
    return missing


def summarise(results: Results) -> list[str]:
    """Return the result in plain sentences, as far as the files on disk tell it."""
    best = best_condition(results.conditions)
    if best is None:
        return ["There is no result yet: the step 'evaluate' has not written any scores."]
    level = f"{100 * confidence(results):g}%"
    label = condition_label(str(best["condition"]), str(best["audio"]))
    sentences = [
        f"The best condition was “{label}”: among {count(best['n_test_windows'])} held-out "
        f"windows, the true sound came at relative rank {number(best['relative_rank'])} on "
        f"average ({level} CI {interval(best['ci_low'], best['ci_high'])}; chance 0.500, best 0; "
        f"{p_phrase(best['p_shift'])} against time-shifted pairing).",
        _verdict(best),
    ]
    told = results.contrasts[results.contrasts["audio"] == best["audio"]]
    for contrast in MAIN_CONTRASTS:
        rows = told[told["contrast"] == contrast].to_dict("records")
        sentences += [_contrast_sentence(row, level) for row in rows]
    for found in results.contributions.values():
        sentences += electrodes_in_words(found, level)
    return sentences


def _verdict(best: pd.Series) -> str:
    if best["ci_high"] < figures.CHANCE and best["p_shift"] < 0.05:
        return "Speech was decoded better than chance in this participant."
    return "This does not show decoding better than chance in this participant."


# What the summary tells of a contrast, as "With ..., the mean rank was lower than with ...".
MAIN_CONTRASTS = {
    "finetuned-taskonly": ("pretraining", "the task data alone"),
    "taskonly-projection": (
        "spatial attention over the positions of contacts",
        "a plain projection of channels, both trained on the task data alone",
    ),
}


def _contrast_sentence(row: Mapping[Any, Any], level: str) -> str:
    first, second = MAIN_CONTRASTS[str(row["contrast"])]
    change = "lower (better)" if row["difference"] < 0 else "higher (worse)"
    clear = "" if row["p"] < 0.05 else "; this does not establish a difference"
    return (
        f"With {first}, the mean rank was {number(abs(row['difference']))} {change} than "
        f"with {second} ({level} CI of the difference "
        f"{interval(row['ci_low'], row['ci_high'])}; {p_phrase(row['p'])}{clear})."
    )


def list_messages(log_lines: tuple[str, ...]) -> list[tuple[str, str, int]]:
    """Return warnings and errors of a log as (level, text, times), in order of appearance."""
    pattern = re.compile(r"^\S+ \S+ (WARNING|ERROR|CRITICAL) (.*)$")
    found: list[tuple[str, str]] = []
    inside = False
    for line in log_lines:
        match = pattern.match(line)
        if match:
            found.append((match[1], match[2]))
        elif inside and line.startswith("  "):  # an error's details follow on indented lines
            found[-1] = (found[-1][0], f"{found[-1][1]}\n{line}")
        inside = match is not None or (inside and line.startswith("  "))
    return [(*message, times) for message, times in Counter(found).items()]


def draw_pictures(
    report: Path, participant: str, results: Results, simulated: bool
) -> dict[str, Picture]:
    """Draw and save the figures for which there are data."""
    recordings = results.plan.get("recordings", [])[:MAX_ROWS_DRAWN]
    drawn: dict[str, tuple[Figure, str]] = {}
    if len(table := results.conditions):
        drawn["conditions"] = figures.condition_ranks(table), alternatives.conditions(table)
    if found := results.ranks:
        drawn["ranks"] = figures.rank_histograms(found), alternatives.ranks(found)
    if draws := results.draws:
        means = _observed(results.conditions)
        words = alternatives.nulls(draws, means)
        drawn["nulls"] = figures.null_distributions(draws, means), words
    if recordings:
        named = [{**recording, "label": short_label(recording)} for recording in recordings]
        drawn["alignment"] = figures.aligned_audio(named), alternatives.alignment(recordings)
    if spectra := results.spectra:
        drawn["spectra"] = figures.power_spectra(spectra), alternatives.spectra(spectra)
    if histories := results.histories:
        words = alternatives.training(histories)
        drawn["training"] = figures.training_curves(histories), words
    folder = report.parent / f"sub-{participant}" / "figures"
    return {
        name: add_picture(
            report, folder, f"sub-{participant}_desc-{name}", figure, TITLES[name], simulated, words
        )
        for name, (figure, words) in drawn.items()
    }


TITLES = {
    "conditions": "Mean relative rank of each condition",
    "ranks": "Distribution of the ranks of the test windows",
    "nulls": "Null distributions of the mean rank",
    "alignment": "Sound aligned to each recording",
    "spectra": "Power spectra before and after preprocessing",
    "training": "Loss and validation rank during training",
}


def _observed(conditions: pd.DataFrame) -> dict[Key, float]:
    keys = zip(conditions["condition"], conditions["audio"], strict=True)
    return dict(zip(keys, conditions["relative_rank"].astype(float), strict=True))
