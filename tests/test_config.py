"""Settings: what a file may say, what it means, and what is answered to mistakes."""

from __future__ import annotations

import math
import tempfile
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_speechdecode.config import (
    DEFAULT_MODELS,
    Config,
    config_to_toml,
    load_config,
    override,
    settings,
)
from bids_speechdecode.errors import MissingInputError, UsageError
from bids_speechdecode.validation import Range, choices, convert

NUMBERS = {
    name: typing.get_args(hint)
    for name, hint in settings().items()
    if typing.get_args(hint)[:1] in ((int,), (float,))
}


def save(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def allowed(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a setting that its type allows."""
    if words := choices(hint):
        return st.sampled_from(words)
    if hint is bool:
        return st.booleans()
    if hint is str:
        return st.text("abcXYZ019/.-é\"'\\ \n", min_size=1).map(str.strip).filter(bool)
    if typing.get_origin(hint) is tuple and (kind := typing.get_args(hint)[0]) is not str:
        return st.lists(allowed(kind), unique=True).map(tuple)
    if typing.get_origin(hint) is tuple:
        return st.lists(st.text("abc012", min_size=1), unique=True).map(tuple)
    kind, bounds = typing.get_args(hint)
    if kind is str:
        texts = ["auto", "cpu", "cuda", "cuda:3", "mel", "hubert", "hubert:3"]
        return st.sampled_from([text for text in texts if text in bounds])
    numbers: st.SearchStrategy[Any] = (
        st.integers(-20, 200) if kind is int else st.floats(-20, 200, allow_nan=False)
    )
    return numbers.filter(lambda number: number in bounds)


@given(st.data())
def test_toml_brings_back_every_setting(data: st.DataObject) -> None:
    """The settings kept with a result must reproduce it exactly."""
    name, hint = data.draw(st.sampled_from(sorted(settings().items(), key=lambda item: item[0])))
    try:
        config = override(Config(), {name: data.draw(allowed(hint))})
    except UsageError as error:
        if "contradict" not in str(error):
            raise
        return
    with tempfile.TemporaryDirectory() as folder:
        assert load_config(save(Path(folder), config_to_toml(config))) == config


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    """What a file leaves out keeps its documented default, also with an editor's BOM."""
    assert load_config(save(tmp_path, "\ufeff# nothing\n")) == Config()


def test_the_defaults_are_allowed() -> None:
    """A default outside its own range would be refused when a saved configuration is read."""
    config = Config()
    for name, hint in settings().items():
        section, _, key = name.partition(".")
        value = getattr(getattr(config, section), key)
        assert convert(value, hint, name) == value


def test_every_number_has_bounds() -> None:
    """A setting without bounds would accept nonsense and fail hours later."""
    assert len(NUMBERS) > 25
    assert all(isinstance(bounds, Range) for _, bounds in NUMBERS.values())
    unbounded = [n for n, h in settings().items() if h in (int, float)]
    assert unbounded == []


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_no_number_can_be_nonsense(name: str) -> None:
    """NaN, infinity, text and far too negative numbers stop at once, and the message says why."""
    for value in (math.nan, math.inf, -1e6, "40", True, [1]):
        with pytest.raises(UsageError, match=r"a (whole )?number (at|above)") as caught:
            override(Config(), {name: value})
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[preproces]\nrate = 40", "did you mean 'preprocess'?"),
        ("[preprocess]\nhigh_pass = 0.1", "did you mean 'highpass'?"),
        ("rate = 40", "unknown section: 'rate'"),
        ("target = 'mel'", "[target] on a line of its own"),
        ("[target]\nname = 'wav2vec'", "did you mean 'wav2vec2'?"),
        ("[target]\nname = ['mel']", "one of wav2vec2"),
        ("[target]\nlayer = 1.5", "a whole number at least 0"),
        ("[target]\nmodel = ''", "needs a model"),
        ("[preprocess]\nnotch = 1", "true or false"),
        ("[preprocess]\nhighpass = 20", "below half of rate"),
        ("[inputs]\nruns = [1.5]", "a list of labels"),
        ("[inputs]\npretrain_task = 'a'\nfinetune_task = 'task-a'", "same task"),
        ("[splits]\nval_fraction = 0.5\ntest_fraction = 0.5", "nothing to train on"),
        ("[windows]\nduration = 40", "shorter than a window"),
        ("[target]\npooling = 'frames'\nframe_rate = 0.1", "no frame in a window"),
        ("[run]\ndevice = 'cuda0'", "cuda:N"),
        ("[run\nseed = 1", "cannot be read as TOML"),
    ],
)
def test_mistakes_say_what_is_meant_and_where(tmp_path: Path, text: str, said: str) -> None:
    """A silently ignored key is a wrong result; every mistake names the file and the remedy."""
    path = save(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_config(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_absent_file_and_a_binary_one_are_different_mistakes(tmp_path: Path) -> None:
    """66 is a missing input, 64 a wrong one."""
    with pytest.raises(MissingInputError):
        load_config(tmp_path / "no.toml")
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError):
        load_config(path)
    with pytest.raises(UsageError):
        load_config(tmp_path)


def test_types_are_converted(tmp_path: Path) -> None:
    """40 and 40.0 must give one signature, and runs are often written as numbers."""
    text = "[preprocess]\nrate = 40\n[inputs]\nruns = [1, 'run-02']\nsessions = 'ses-a'\n"
    config = load_config(save(tmp_path, text))
    assert isinstance(config.preprocess.rate, float)
    assert config.inputs.runs == ("1", "02")
    assert config.inputs.sessions == ("a",)


@pytest.mark.parametrize("name", sorted(DEFAULT_MODELS))
def test_a_target_brings_its_own_model(name: str) -> None:
    """wav2vec 2.0 weights in a WavLM network would be garbage."""
    target = override(Config(), {"target.name": name}).target
    assert (target.model, target.layer) == DEFAULT_MODELS[name]
    back = override(override(Config(), {"target.name": name}), {"target.name": "wav2vec2"})
    assert back == Config()


def test_a_chosen_model_stays() -> None:
    """Only defaults follow the target; what the user chose does not."""
    mine = override(Config(), {"target.model": "/models/mine", "target.layer": 5})
    target = override(mine, {"target.name": "hubert"}).target
    assert (target.model, target.layer) == ("/models/mine", 5)
    layer = override(Config(), {"target.layer": 5, "target.name": "hubert"}).target.layer
    assert layer == 5


def test_override_leaves_the_original_alone() -> None:
    """Settings are shared by all steps; none may change them for the others."""
    config = Config()
    override(config, {"run.seed": 9})
    assert config == Config()


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3))
def test_ranges_contain_what_their_words_say(low: float, high: float, number: float) -> None:
    """Open and closed bounds are easily swapped."""
    assert (number in Range(least=low, below=high)) == (low <= number < high)
    assert (number in Range(above=low, most=high)) == (low < number <= high)
