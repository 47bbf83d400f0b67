"""Every channel kept or dropped with a reason that a clinician can check against the picture."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bids_speechdecode.anatomy.atlas import SPEECH_ROI
from bids_speechdecode.anatomy.regions import VENTRAL_BELOW_MM, Region, find_regions
from bids_speechdecode.anatomy.selection import (
    count_by_region,
    notes_on_centers,
    parse_centers,
    select_channels,
)
from bids_speechdecode.config import SelectionConfig
from bids_speechdecode.errors import DataError, NothingSelectedError, UsageError

LABELS = (*SPEECH_ROI, "superiorfrontal", "fusiform", "brainstem")
MNI = "MNI152"


def channel(name, position=None, label=None, hemisphere=None, *, space=MNI, nearest=None, mm=0.0):
    x, y, z = (np.nan,) * 3 if position is None else position
    known = position is not None
    return {
        "name": name,
        "x": x,
        "y": y,
        "z": z,
        "space": space if known else None,
        "label": label,
        "hemisphere": hemisphere,
        "nearest_label": nearest or label,
        "distance": mm if known else np.nan,
    }


def implant():
    """Return one channel of each kind that the rules tell apart."""
    return pd.DataFrame(
        [
            channel("STG", (-60, -20, 5), "superiortemporal", "L"),
            channel("STG_R", (60, -20, 5), "superiortemporal", "R"),
            channel("SFG", (-20, 30, 45), "superiorfrontal", "L"),
            channel("face", (-55, -5, 30), "precentral", "L"),
            channel("hand", (-38, -20, 58), "precentral", "L"),
            channel("white", (-30, -30, 20), None, "L", nearest="insula", mm=7.1),
            channel("nowhere"),
            channel("native", (10, 20, 30), "insula", "L", space="native"),
            channel("native_motor", (10, 20, 30), "postcentral", "L", space="native"),
        ]
    )


def choose(table=None, responsive=None, **settings):
    table = implant() if table is None else table
    found = select_channels(table, SelectionConfig(**settings), LABELS, responsive)
    return dict(zip(found["name"], found["kept"], strict=True)), dict(
        zip(found["name"], found["reason"], strict=True)
    )


def responses(**q_of):
    names = list(q_of)
    q = np.array([q_of[name] for name in names], dtype=float)
    r = np.where(np.isnan(q), np.nan, 0.1)
    return pd.DataFrame({"name": names, "sound_r": r, "sound_q": np.nan_to_num(q, nan=1.0)})


def test_all_keeps_every_channel_and_changes_nothing_else():
    """Without a rule, a position is not needed and no column is lost."""
    table = implant().assign(good_fraction=1.0).set_axis(range(10, 19))
    found = select_channels(table, SelectionConfig(), LABELS)
    assert found["kept"].all()
    assert set(found["reason"]) == {"good brain channel"}
    pd.testing.assert_frame_equal(found.drop(columns=["kept", "reason"]), table)


def test_speech_preset_is_what_the_documentation_says():
    """The preset decides what most users train on; a change must be seen."""
    regions = find_regions(["speech"], "both", LABELS)
    whole = {r.label for r in regions if r.below_mm is None}
    ventral = {r.label for r in regions if r.below_mm is not None}
    assert whole == {
        *("superiortemporal", "transversetemporal", "middletemporal", "bankssts"),
        *("supramarginal", "parsopercularis", "parstriangularis", "parsorbitalis", "insula"),
    }
    assert ventral == {"precentral", "postcentral"}
    assert {r.below_mm for r in regions} == {None, VENTRAL_BELOW_MM}


def test_roi_reasons_state_the_facts():
    """Each dropped channel says where it is, and each kept one where it was found."""
    kept, reason = choose(rules=("roi",))
    assert [name for name in kept if kept[name]] == ["STG", "STG_R", "face", "native"]
    assert reason == {
        "STG": "in superiortemporal, left",
        "STG_R": "in superiortemporal, right",
        "SFG": "outside the regions: superiorfrontal, left",
        "face": "in precentral, left",
        "hand": "outside the regions: precentral, left, z = 58.0 mm (ventral: below 40 mm)",
        "white": "outside the regions: no label (insula is the nearest, 7.1 mm away)",
        "nowhere": "not localised",
        "native": "in insula, left",
        "native_motor": "not localised in MNI152 (ventral or dorsal postcentral, left?)",
    }


def test_hemisphere_holds_for_every_region():
    """Decoding from the left only must not let a right contact through."""
    kept, reason = choose(rules=("roi",), hemisphere="left")
    assert kept["STG"]
    assert not kept["STG_R"]
    assert reason["STG_R"] == "outside the regions: superiortemporal, right"
    right, _ = choose(rules=("roi",), hemisphere="right")
    assert [name for name in right if right[name]] == ["STG_R"]
    table = implant().assign(hemisphere=[None] * 9)
    with pytest.raises(NothingSelectedError):
        choose(table, rules=("roi",), hemisphere="left")


def test_region_on_the_other_side_is_not_blamed_on_its_height():
    """A low contact on the wrong side was dropped for the side, and the reason says so."""
    table = pd.DataFrame(
        [
            channel("a", (55, -5, 30), "precentral", "R"),
            channel("b", (-60, 0, 0), "insula", "L"),
        ]
    )
    _, reason = choose(table, rules=("roi",), hemisphere="left")
    assert reason["a"] == "outside the regions: precentral, right"


@pytest.mark.parametrize(
    "text",
    [
        "left superiortemporal",
        "lh.superiortemporal",
        "ctx-lh-superiortemporal",
        "lh_superiortemporal",
        "L superiortemporal",
        "superiortemporal left",
        "superiortemporal, left",
        "SuperiorTemporal_L",
    ],
)
def test_labels_are_read_as_people_write_them(text):
    """FreeSurfer, atlases and papers write one label in many ways; all mean the same."""
    expected = (Region("superiortemporal", "L"),)
    assert find_regions([text], "both", LABELS) == expected
    assert find_regions(["superiortemporal"], "left", LABELS) == expected
    assert find_regions([text], "left", LABELS) == expected


def test_a_label_that_looks_like_a_side_is_a_label_first():
    """An atlas may have labels such as ``L_A1``; they must not be taken apart."""
    assert find_regions(["L_A1"], "both", ["L_A1", "A1"]) == (Region("L_A1"),)


def test_named_gyrus_is_whole_even_beside_the_preset():
    """Who names precentral asks for all of it; only the preset stops at the hand."""
    kept, _ = choose(rules=("roi",), roi=("speech", "precentral"))
    assert kept["hand"]
    assert not kept["SFG"]


@pytest.mark.parametrize(
    ("roi", "hemisphere", "labels", "words"),
    [
        (("superiortemprol",), "both", LABELS, "did you mean 'superiortemporal'"),
        (("lh.insla",), "both", LABELS, "did you mean 'insula'"),
        (("speach",), "both", LABELS, "did you mean 'speech'"),
        (("left insula",), "right", LABELS, "nothing in common"),
        (("speech",), "both", ("A1", "A2"), "none of the regions of the preset"),
        ((), "both", LABELS, "needs regions"),
        (("",), "both", LABELS, "unknown region"),
    ],
)
def test_regions_that_cannot_be_are_refused(roi, hemisphere, labels, words):
    """A misspelt region must not silently select nothing."""
    settings = SelectionConfig(rules=("roi",), roi=roi, hemisphere=hemisphere)
    with pytest.raises(UsageError, match=words) as error:
        select_channels(implant(), settings, labels)
    assert error.value.exit_code == 64


def test_preset_takes_what_an_atlas_has_of_it():
    """DKT atlases have no banks of the STS; the other regions still count."""
    fewer = [label for label in LABELS if label != "bankssts"]
    assert len(find_regions(["speech"], "both", fewer)) == len(SPEECH_ROI) - 1


def test_radius_measures_to_the_nearest_centre():
    """The limit itself is inside; the reason gives the distance to check by hand."""
    table = pd.DataFrame([channel(n, (x, 0, 0)) for n, x in [("a", 6), ("b", 10), ("c", 14.2)]])
    kept, reason = choose(table, rules=("radius",), center="0,0,0; 80,0,0", radius=10.0)
    assert kept == {"a": True, "b": True, "c": False}
    assert reason["a"] == "6.0 mm from the nearest centre"
    assert reason["c"] == "14.2 mm from the nearest centre (limit 10 mm)"


def test_radius_needs_a_position_in_mni152():
    """Native millimetres are no MNI millimetres, however near they look."""
    settings = {"rules": ("radius",), "center": "10,20,30; -60,-20,5"}
    kept, reason = choose(**settings)
    assert [name for name in kept if kept[name]] == ["STG"]
    assert reason["native"] == "not localised in MNI152"
    assert reason["nowhere"] == "not localised"


def test_unlocalised_channels_follow_the_policy():
    """Whether a contact without coordinates is used is the user's decision, and is said."""
    kept, reason = choose(rules=("roi",), unlocalised="keep")
    assert kept["nowhere"]
    assert kept["native_motor"]
    assert reason["nowhere"] == "not localised: kept as --unlocalised keep asks"
    with pytest.raises(DataError, match="2 of 9 channels") as error:
        choose(rules=("roi",), unlocalised="error")
    assert "nowhere, native_motor" in str(error.value)
    assert choose(rules=("all",), unlocalised="error")[0]["nowhere"]


def test_response_needs_no_position():
    """Sound is heard without coordinates: the rule alone keeps unlocalised channels."""
    q = responses(STG=0.003, SFG=0.41, nowhere=0.01, hand=np.nan)
    kept, reason = choose(responsive=q, rules=("responsive",), unlocalised="error")
    assert [name for name in kept if kept[name]] == ["STG", "nowhere"]
    assert reason["STG"] == "responds to sound (q = 0.003)"
    assert reason["SFG"] == "does not respond to sound (q = 0.41)"
    assert reason["hand"] == "does not respond to sound (constant or missing signal)"
    assert reason["face"] == reason["hand"]


def test_a_channel_must_pass_every_rule_and_all_adds_nothing():
    """The reason names the first rule that failed, in one order however they are typed."""
    q = responses(STG=0.003, STG_R=0.41, SFG=0.41, nowhere=0.5)
    settings = {"rules": ("responsive", "all", "roi"), "unlocalised": "keep"}
    kept, reason = choose(responsive=q, **settings)
    assert [name for name in kept if kept[name]] == ["STG"]
    assert reason["STG"] == "in superiortemporal, left; responds to sound (q = 0.003)"
    assert reason["STG_R"] == "does not respond to sound (q = 0.41)"
    assert reason["SFG"] == "outside the regions: superiorfrontal, left"
    assert reason["nowhere"] == "does not respond to sound (q = 0.5)"


def test_order_of_responses_does_not_matter():
    """Responses are matched by name: an order of their own must not exchange channels."""
    q = responses(STG=0.003, SFG=0.41, hand=0.2)
    once = choose(responsive=q, rules=("responsive",))
    assert choose(responsive=q.iloc[::-1], rules=("responsive",)) == once


def test_empty_selection_counts_where_the_channels_are():
    """Exit 18 must let the user see at once what a better region would be."""
    table = pd.concat([implant(), implant().iloc[[2, 2]]])
    with pytest.raises(NothingSelectedError) as error:
        choose(table, rules=("roi", "radius"), roi=("fusiform",), center="-50,-20,8")
    assert error.value.exit_code == 18
    text = str(error.value)
    assert "in fusiform, within 10 mm of -50,-20,8" in text
    assert "none of 11 passed: superiorfrontal left 3, precentral left 2, insula left 1" in text
    assert "no label 1" in text
    assert "not localised 1" in text
    with pytest.raises(NothingSelectedError, match="none of 0"):
        choose(implant().iloc[:0])


def test_counts_add_up_to_the_channels():
    """No channel may be missing from the counts."""
    counts = [int(part.rsplit(" ", 1)[1]) for part in count_by_region(implant()).split(", ")]
    assert sum(counts) == len(implant())
    assert counts == sorted(counts, reverse=True)


def test_centres_are_read():
    """Several points, spaces and the minus sign of papers."""
    found = parse_centers(" -50, -20,8 ;50,-20, 8.5")
    assert found.tolist() == [[-50, -20, 8], [50, -20, 8.5]]
    assert parse_centers("\u221250,1e1,.5").tolist() == [[-50, 10, 0.5]]


@pytest.mark.parametrize(
    "text", ["", "1,2", "1,2,3,4", "1;2;3", "a,b,c", "1,2,nan", "1,2,3;", "inf,0,0"]
)
def test_centres_that_are_none_are_refused(text):
    """Half a coordinate must not become a place in the brain."""
    with pytest.raises(UsageError, match="--center cannot be"):
        parse_centers(text)


def test_centres_outside_the_head_are_told():
    """Metres, voxels and exchanged signs give points without brain; a note says which."""
    assert notes_on_centers(parse_centers("-50,-20,8; 0,-100,-60")) == ()
    (note,) = notes_on_centers(parse_centers("-50,-20,8; 128,100,90"))
    assert "128,100,90" in note
