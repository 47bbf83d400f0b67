"""The group level reads what participants wrote, names whom it leaves out, and writes tables."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from bids_speechdecode.bids.derivatives import Derivatives
from bids_speechdecode.bids.files import write_tsv
from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.errors import DataError, MissingInputError
from bids_speechdecode.group.summary import summarise_group, write_group

RANKS = {"backward": 0.4, "taskonly": 0.3, "finetuned": 0.2}


def write_participant(root, label, shift=0.0, task="audiobook", target="mel", **changes):
    """Write the two tables of a participant, as the participant level does."""
    out = Derivatives(root, source=root / "in", command="", simulated=True)
    conditions = pd.DataFrame(
        {
            "condition": list(RANKS),
            "audio": "true",
            "task": task,
            "n_test_windows": 100,
            "relative_rank": np.array(list(RANKS.values())) + shift,
            "p_shift": 0.002,
            "target": target,
            "simulated": True,
        }
    ).assign(**changes)
    contrasts = pd.DataFrame(
        {
            "contrast": ["finetuned-taskonly"],
            "audio": "true",
            "difference": -0.1 + shift,
            "ci_low": -0.2,
            "ci_high": -0.01,
            "p": 0.03,
            "n_blocks": 12,
        }
    )
    for desc, table in (("conditions", conditions), ("contrasts", contrasts)):
        path = out.path(label, task=task, desc=desc, suffix="scores", extension=".tsv")
        write_tsv(path, table)
    return out


def summarise(root, *participants):
    return summarise_group(root, participants, EvaluationConfig(), np.random.default_rng(0))


def table_path(root, label, desc="conditions"):
    return root / f"sub-{label}/ieeg/sub-{label}_task-audiobook_desc-{desc}_scores.tsv"


def test_tables_hold_means_over_participants(tmp_path):
    # The numbers of the group table are those of the participants, nothing else.
    for label, shift in (("01", -0.02), ("02", 0.02), ("03", 0.03)):
        write_participant(tmp_path, label, shift)
    summary = summarise(tmp_path, "01", "02", "03")
    group = summary.conditions["audiobook"].set_index("condition")
    assert list(group.index) == list(RANKS)
    for condition, rank in RANKS.items():
        assert group.loc[condition, "mean_rank"] == pytest.approx(rank + 0.01)
    assert (group["n_participants"] == 3).all()
    assert (group["p_min"] == 1 / 8).all()
    contrast = summary.contrasts["audiobook"].iloc[0]
    assert contrast["difference"] == pytest.approx(-0.09)
    assert contrast["p_min"] == 1 / 4
    assert list(summary.participants.columns[:2]) == ["participant", "condition"]
    assert len(summary.participants) == 9
    assert summary.left_out == ()
    assert summary.simulated


def test_two_participants_say_what_cannot_be_concluded(tmp_path):
    # The demo has two participants; its table must not suggest a result about people.
    out = write_participant(tmp_path, "01")
    write_participant(tmp_path, "02", 0.01)
    paths = write_group(out, summarise(tmp_path, "01", "02"), EvaluationConfig())
    names = {path.name for path in paths}
    assert names == {
        "group_task-audiobook_desc-conditions_scores.tsv",
        "group_task-audiobook_desc-contrasts_scores.tsv",
        "group_desc-participants_scores.tsv",
        "group_desc-participantContrasts_scores.tsv",
    }
    text = (tmp_path / "group_task-audiobook_desc-conditions_scores.tsv").read_text()
    header, first = text.splitlines()[:2]
    assert header.split("\t")[:3] == ["condition", "audio", "task"]
    assert "nothing can be concluded about other people" in first
    assert "n/a" in first
    sidecar = tmp_path / "group_task-audiobook_desc-conditions_scores.json"
    described = json.loads(sidecar.read_text())
    assert described["Simulated"] is True
    assert "p_min" in described["Columns"]


def test_participant_without_results_is_named(tmp_path):
    # Leaving somebody out silently would change the sample.
    write_participant(tmp_path, "01")
    (tmp_path / "sub-02").mkdir()
    summary = summarise(tmp_path, "01", "02", "03")
    assert [item.what for item in summary.left_out] == ["sub-02", "sub-03"]
    assert summary.participants["participant"].unique().tolist() == ["sub-01"]


@pytest.mark.parametrize("content", ["", "condition\taudio\nfinetuned\ttrue\n", "\x00\x01"])
def test_broken_table_is_named_and_does_not_stop_the_others(tmp_path, content):
    # A participant killed or edited by hand must not cost the group level.
    write_participant(tmp_path, "01")
    write_participant(tmp_path, "02")
    table_path(tmp_path, "02").write_text(content)
    summary = summarise(tmp_path, "01", "02")
    assert [item.what for item in summary.left_out] == ["sub-02"]
    assert str(table_path(tmp_path, "02")) in summary.left_out[0].why


def test_text_where_a_number_belongs_is_named(tmp_path):
    # "0,25" from a spreadsheet would otherwise be a crash or a wrong mean.
    write_participant(tmp_path, "01")
    write_participant(tmp_path, "02", relative_rank="0,25")
    summary = summarise(tmp_path, "01", "02")
    assert "relative_rank" in summary.left_out[0].why


def test_repeated_row_is_refused(tmp_path):
    # A participant counted twice makes p too small.
    write_participant(tmp_path, "01")
    write_participant(tmp_path, "02", condition="finetuned")
    assert "twice" in summarise(tmp_path, "01", "02").left_out[0].why


def test_missing_score_is_left_out_not_averaged(tmp_path):
    # n/a is no rank; the other conditions of that participant stay.
    write_participant(tmp_path, "01")
    write_participant(tmp_path, "02", relative_rank=[0.4, np.nan, 0.2])
    summary = summarise(tmp_path, "01", "02")
    group = summary.conditions["audiobook"].set_index("condition")
    assert group["n_participants"].to_dict() == {"backward": 2, "taskonly": 1, "finetuned": 2}
    assert "taskonly" in summary.left_out[0].what


def test_group_before_any_participant(tmp_path):
    # The commonest mistake: group first. It must say what to run.
    with pytest.raises(MissingInputError, match="participant level first") as caught:
        summarise(tmp_path, "01", "02")
    assert caught.value.exit_code == 66
    assert "sub-01" in str(caught.value)
    with pytest.raises(MissingInputError):
        summarise(tmp_path)


def test_different_targets_are_not_put_together(tmp_path):
    # Ranks against mel and against wav2vec 2.0 are different measures.
    write_participant(tmp_path, "01", target="mel")
    write_participant(tmp_path, "02", target="wav2vec2")
    with pytest.raises(DataError, match="mel: sub-01; wav2vec2: sub-02"):
        summarise(tmp_path, "01", "02")


def test_tasks_stay_apart(tmp_path):
    # Two finetuning tasks in one output folder are two tables.
    write_participant(tmp_path, "01", task="audiobook")
    write_participant(tmp_path, "01", task="podcast", target="wav2vec2")
    summary = summarise(tmp_path, "01")
    assert set(summary.conditions) == {"audiobook", "podcast"}


def test_no_contrasts_is_fine(tmp_path):
    # One condition alone has nothing to be compared with.
    out = write_participant(tmp_path, "01")
    write_tsv(table_path(tmp_path, "01", "contrasts"), pd.DataFrame())
    summary = summarise(tmp_path, "01")
    assert summary.contrasts == {}
    assert len(write_group(out, summary, EvaluationConfig())) == 4 - 1
