"""What was heard when. Oracle: audio whose value is its own time, looked up through the map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_speechdecode.bids.alignment import Alignment, align, fit_clock
from bids_speechdecode.bids.channels import Channel
from bids_speechdecode.bids.dataset import Recording
from bids_speechdecode.errors import DataError, MissingInputError
from bids_speechdecode.timeline import Interval

RATE = 1000  # hertz, of the test audio
SCALE = 1e-4  # 10,000 s reach full scale


class Bench:
    """A dataset of one recording in which tests write events and audio."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stimuli = root / "stimuli"
        self.stimuli.mkdir()
        self.events = root / "events.tsv"
        self.channels: tuple[Channel, ...] = ()

    def audio(self, name: str, duration: float) -> None:
        """Write audio whose value at each sample is its time."""
        times = np.arange(round(duration * RATE)) / RATE
        soundfile.write(self.stimuli / name, times * SCALE, RATE, subtype="FLOAT")

    def align(self, events: str | None = None, *, duration: float = 100.0, audio: str = ""):
        if events is not None:
            self.events.write_text(events.replace(" ", "\t"))
        recording = Recording(
            root=self.root,
            path=self.root / "sub-01_task-x_ieeg.edf",
            format="edf",
            participant="01",
            session=None,
            task="x",
            run=None,
            entities=(("sub", "01"), ("task", "x")),
            channels=self.channels,
            events_path=self.events if events is not None else None,
        )
        return align(recording, duration=duration, stimuli_dir=self.stimuli, audio=audio)

    def error(self, kind: type, events: str | None, **options) -> str:
        with pytest.raises(kind) as error:
            self.align(events, **options)
        assert error.value.exit_code == {DataError: 65, MissingInputError: 66}[kind]
        return str(error.value)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def heard_at(alignment: Alignment, time: float, version: str = "true") -> tuple[str, float] | None:
    """Return the file heard at a time of the recording and the value of the audio there."""
    for segment in alignment.segments:
        inside = segment.interval.start <= time < segment.interval.stop
        if segment.version == version and inside:
            frame = round(segment.clock.to_audio(time) * RATE)
            value, _ = soundfile.read(segment.source.path, frames=1, start=frame)
            return segment.source.path.name, float(value[0]) / SCALE
    return None


# ---------------------------------------------------------------------- the readings


def test_one_row_plays_its_file_from_the_start(bench):
    """The plainest layout: a story that starts 12.5 s into the recording."""
    bench.audio("story.wav", 60)
    found = bench.align("onset duration stim_file\n12.5 n/a story.wav\n")
    assert found.segments[0].interval == Interval(12.5, 72.5)
    assert found.segments[0].audio_interval == pytest.approx((0, 60))
    assert heard_at(found, 12.0) is None
    assert heard_at(found, 20.0) == ("story.wav", pytest.approx(7.5, abs=1e-3))
    assert found.segments[0].residual_ms is None


def test_recording_that_ends_first_cuts_the_audio(bench):
    """Nobody knows what the brain did after the recording ended."""
    bench.audio("story.wav", 60)
    found = bench.align("onset duration stim_file\n12.5 60 story.wav\n", duration=50)
    assert found.segments[0].interval == Interval(12.5, 50)
    assert any("22.5 s after the end" in note for note in found.notes)


def test_blocks_that_each_play_another_file(bench):
    """Block designs: every file starts at its own row, in any order of rows."""
    for i in (1, 2, 3):
        bench.audio(f"{i}.wav", 10)
    found = bench.align("onset duration stim_file\n40 10 3.wav\n10 10 1.wav\n25 8 2.wav\n")
    assert [s.source.path.name for s in found.segments] == ["1.wav", "2.wav", "3.wav"]
    assert heard_at(found, 31.0) == ("2.wav", pytest.approx(6, abs=1e-3))
    assert heard_at(found, 34.0) is None  # the row says that it lasted 8 s


def test_file_replayed_at_every_row(bench):
    """A short sentence repeated through the session starts anew each time."""
    bench.audio("word.wav", 2)
    found = bench.align("onset duration stim_file\n10 2 word.wav\n30 2 word.wav\n77 2 word.wav\n")
    assert len(found.segments) == 3
    for onset in (10, 30, 77):
        assert heard_at(found, onset + 0.5) == ("word.wav", pytest.approx(0.5, abs=1e-3))


def test_session_long_file_named_on_every_trial(bench):
    """As in a published dataset: one wav of the session, trials of natural sentences."""
    bench.audio("session.wav", 90)
    rows = "44.05 2.67\n48.82 2.78\n53.65 2.67\n58.55 1.93\n64.04 1.9\n88.9 1.1\n"
    lines = rows.replace("\n", " session.wav\n")
    found = bench.align(f"onset duration stim_file\n{lines}")
    assert len(found.segments) == 1
    assert found.segments[0].interval == pytest.approx((44.05, 90))
    assert "session-long" in found.segments[0].reading
    for time in (44.1, 60.0, 89.0):
        assert heard_at(found, time) == ("session.wav", pytest.approx(time, abs=1e-3))


def test_many_equal_trials_of_a_session_long_file(bench):
    """Trials of fixed length: replaying 1 s of a 95 s file 12 times is not what happened."""
    bench.audio("session.wav", 95)
    for duration in ("1", "n/a"):
        lines = "".join(f"{5 + 7 * i} {duration} session.wav\n" for i in range(13))
        found = bench.align(f"onset duration stim_file\n{lines}")
        assert heard_at(found, 40.0) == ("session.wav", pytest.approx(40, abs=1e-3))


def test_few_unequal_trials_of_a_session_long_file(bench):
    """Sounds of different length are not one file replayed, however few they are."""
    bench.audio("session.wav", 60)
    found = bench.align("onset duration stim_file\n2 15 session.wav\n25 9.5 session.wav\n")
    assert heard_at(found, 30.0) == ("session.wav", pytest.approx(30, abs=1e-3))


def test_parts_within_one_playback(bench):
    """A block row and the sentences in it name the same file; it started once."""
    bench.audio("story.wav", 60)
    found = bench.align(
        "onset duration stim_file\n10 60 story.wav\n12 2.5 story.wav\n30 3.5 story.wav\n"
    )
    assert [s.interval for s in found.segments] == [Interval(10, 70)]
    assert heard_at(found, 30.0) == ("story.wav", pytest.approx(20, abs=1e-3))


@pytest.mark.parametrize("duration", ["20", "n/a"])
def test_ambiguous_rows_show_both_readings(bench, duration):
    """Three equal rows of one file fit two stories; choosing one would be a guess."""
    bench.audio("a.wav", 65)
    lines = "".join(f"{onset} {duration} a.wav\n" for onset in (0.5, 21, 44))
    text = bench.error(DataError, f"onset duration stim_file\n{lines}")
    for part in ("2 ways", "replayed from its start at each of 3 rows", "session-long"):
        assert part in text
    assert "audio_onset" in text
    found = bench.align(
        "onset duration stim_file audio_onset\n"
        + "".join(f"{t} {duration} a.wav 0\n" for t in (0.5, 21, 44))
    )
    assert heard_at(found, 22.0) == ("a.wav", pytest.approx(1, abs=1e-3))
    found = bench.align(
        "onset duration stim_file audio_onset\n"
        + "".join(f"{t} {duration} a.wav {t}\n" for t in (0.5, 21, 44))
    )
    assert heard_at(found, 22.0) == ("a.wav", pytest.approx(22, abs=1e-3))


# ------------------------------------------------------------------------------ anchors


def test_anchors_recover_a_drifting_clock(bench):
    """A drift of 80 ppm is 0.3 s in an hour: without the map, windows end up elsewhere."""
    slope, offset = 1 + 80e-6, -7.25
    bench.audio("room.wav", 3600)
    onsets = np.array([10.0, 600, 1200.5, 1800, 3000, 3590])
    rng = np.random.default_rng(0)
    heard = slope * onsets + offset + rng.normal(0, 0.002, onsets.size)
    lines = "".join(f"{t:.6f} n/a room.wav {a:.6f}\n" for t, a in zip(onsets, heard, strict=True))
    found = bench.align(f"onset duration stim_file audio_onset\n{lines}", duration=3605)
    [segment] = found.segments
    oracle_slope, oracle_offset = np.polyfit(onsets, heard, 1)
    assert segment.clock.slope == pytest.approx(oracle_slope, abs=1e-9)
    assert segment.clock.offset == pytest.approx(oracle_offset, abs=2e-6)
    residual = heard - np.polyval((oracle_slope, oracle_offset), onsets)
    assert segment.residual_ms == pytest.approx(1000 * np.sqrt(np.mean(residual**2)), rel=1e-2)
    assert segment.clock.drift_ppm == pytest.approx(80, abs=3)
    assert len(segment.anchors) == 6
    assert heard_at(found, 2500.0)[1] == pytest.approx(slope * 2500 + offset, abs=0.005)


@settings(max_examples=50, deadline=None)
@given(
    drift=st.floats(-500, 500),
    offset=st.floats(-1e4, 1e4),
    start=st.floats(0, 6e5),
    n=st.integers(2, 20),
)
def test_exact_anchors_give_an_exact_map(drift, offset, start, n):
    """The map must hold to a microsecond even a week after the clock's zero."""
    times = start + np.linspace(0, 7200, n)
    slope = 1 + drift * 1e-6
    clock, residual_ms = fit_clock([(t, slope * t + offset) for t in times])
    for t in times:
        assert clock.to_audio(t) == pytest.approx(slope * t + offset, abs=1e-6)
        assert clock.to_recording(clock.to_audio(t)) == pytest.approx(t, abs=1e-6)
    assert residual_ms is None if n < 3 else residual_ms < 1e-3


def test_anchors_too_close_to_tell_the_speed():
    """Two marks a second apart, 10 ms off, would make a drift of 1 %: speed is not fitted."""
    clock, _ = fit_clock([(10.0, 0.0), (11.0, 1.01)])
    assert clock.slope == 1.0
    assert clock.offset == pytest.approx(-9.995)


def test_pause_starts_a_new_stretch(bench):
    """A story paused for 20 s: the second half must not be mapped with the first."""
    bench.audio("story.wav", 60)
    found = bench.align(
        "onset duration stim_file audio_onset\n10 30 story.wav 0\n60 30 story.wav 30\n"
    )
    assert [s.interval for s in found.segments] == [Interval(10, 40), Interval(60, 90)]
    assert heard_at(found, 39.0) == ("story.wav", pytest.approx(29, abs=1e-3))
    assert heard_at(found, 50.0) is None
    assert heard_at(found, 61.0) == ("story.wav", pytest.approx(31, abs=1e-3))


def test_audio_that_started_before_the_recording(bench):
    """An onset of 0 with the time already reached in the audio."""
    bench.audio("story.wav", 60)
    found = bench.align("onset duration stim_file audio_onset\n0 n/a story.wav 25\n")
    assert found.segments[0].interval == pytest.approx((0, 35))
    assert heard_at(found, 5.0) == ("story.wav", pytest.approx(30, abs=1e-3))


def test_anchors_at_the_wrong_speed_are_an_error(bench):
    """Audio of 44.1 kHz labelled 48 kHz: a straight line, but not of this recording."""
    bench.audio("story.wav", 90)
    lines = "".join(f"{10 * i} n/a story.wav {10 * i * 44.1 / 48:.4f}\n" for i in range(9))
    text = bench.error(DataError, f"onset duration stim_file audio_onset\n{lines}")
    assert "0.91875" in text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("10 n/a a.wav 0\n20 n/a a.wav n/a\n", "Only some of the rows"),
        ("10 n/a a.wav -1\n", "negative"),
        ("10 n/a a.wav 70\n", "shorter than the events say"),
        ("10 20 a.wav 50\n", "shorter than the events say"),
    ],
)
def test_impossible_audio_onsets(bench, rows, message):
    """Times that the file does not have cannot be looked up in it."""
    bench.audio("a.wav", 60)
    text = bench.error(DataError, f"onset duration stim_file audio_onset\n{rows}")
    assert message in text
    assert "line" in text


# ------------------------------------------------------------ two sounds, channels, none


def test_clean_and_room_sound_of_one_session(bench):
    """The paper's two versions of the task: both are kept, each under its name."""
    bench.audio("clean.wav", 30)
    bench.audio("room.wav", 90)
    found = bench.align(
        "onset duration stim_file audio_version\n20 30 clean.wav true\n2 90 room.wav ambient\n"
    )
    assert heard_at(found, 25.0, "true") == ("clean.wav", pytest.approx(5, abs=1e-3))
    assert heard_at(found, 25.0, "ambient") == ("room.wav", pytest.approx(23, abs=1e-3))
    text = bench.error(DataError, "onset duration stim_file audio_version\n20 30 clean.wav ture\n")
    assert "did you mean 'true'?" in text


@pytest.mark.parametrize("duration", ["30", "n/a"])
def test_two_files_at_once_without_a_version(bench, duration):
    """Which of two simultaneous sounds the brain followed is not for us to guess."""
    bench.audio("a.wav", 30)
    bench.audio("b.wav", 30)
    text = bench.error(
        DataError, f"onset duration stim_file\n10 {duration} a.wav\n20 {duration} b.wav\n"
    )
    assert "a.wav from 10.000 to 40.000 s" in text
    assert "b.wav from 20.000 to 50.000 s" in text
    assert "audio_version" in text


def test_rounding_overlaps_are_cut(bench):
    """Back-to-back files whose headers are a few ms longer than their rows say."""
    bench.audio("a.wav", 10.03)
    bench.audio("b.wav", 10)
    found = bench.align("onset duration stim_file\n10 n/a a.wav\n20 n/a b.wav\n")
    assert [s.interval for s in found.segments] == [Interval(10, 20), Interval(20, 30)]


def test_audio_channel_shares_the_clock(bench):
    """A microphone wired to the amplifier needs no events at all."""
    bench.channels = (
        Channel("A1", "SEEG"),
        Channel("MIC0", "AUDIO", status="bad"),
        Channel("MIC", "AUDIO", sampling_frequency=2048),
        Channel("MIC2", "AUDIO"),
    )
    [segment] = bench.align().segments
    assert (segment.source.channel, segment.source.path) == ("MIC", None)
    assert (segment.version, segment.interval) == ("ambient", Interval(0, 100))
    assert segment.source.sampling_rate == 2048
    assert "MIC2 not used" in segment.reading


def test_channel_and_file_are_two_versions(bench):
    """Events that name the clean file and a microphone channel: both versions, no conflict."""
    bench.audio("clean.wav", 30)
    bench.channels = (Channel("MIC", "AUDIO"),)
    found = bench.align("onset duration stim_file\n20 30 clean.wav\n")
    assert sorted(s.version for s in found.segments) == ["ambient", "true"]


def test_file_of_the_room_replaces_the_microphone_channel(bench):
    """Both are what the room heard; kept together, every ambient window would count twice."""
    bench.audio("room.wav", 30)
    bench.channels = (Channel("MIC", "AUDIO"),)
    found = bench.align("onset duration stim_file audio_version\n20 30 room.wav ambient\n")
    assert [s.source.name for s in found.segments] == ["room.wav"]
    assert any("channel MIC is not used" in note for note in found.notes)


def test_no_events_and_audio_that_the_user_names(bench):
    """The layout of a published podcast dataset: no events, the audio starts at 0."""
    bench.audio("podcast.wav", 90)
    found = bench.align(audio="podcast.wav")
    assert found.segments[0].interval == Interval(0, 90)
    assert heard_at(found, 50.0) == ("podcast.wav", pytest.approx(50, abs=1e-3))
    assert any("10.0 s before the recording" in note for note in found.notes)
    assert "stroy" in bench.error(MissingInputError, None, audio="stroy.wav")


def test_named_audio_may_lie_elsewhere(bench, monkeypatch):
    """A user may keep the audio (often under copyright) outside the dataset and name its path."""
    bench.audio("podcast.wav", 90)
    elsewhere = bench.root / "private"
    elsewhere.mkdir()
    (bench.stimuli / "podcast.wav").rename(elsewhere / "podcast.wav")
    monkeypatch.chdir(bench.root)
    found = bench.align(audio="private/podcast.wav")
    assert found.segments[0].source.path == elsewhere / "podcast.wav"


def test_misc_channel_that_the_user_names(bench):
    """Sound recorded on a channel of type MISC counts only when the user says so."""
    bench.channels = (Channel("DC1", "MISC"),)
    assert "MISC channels: DC1" in bench.error(DataError, None)
    assert bench.align(audio="DC1").segments[0].source.channel == "DC1"


def test_events_beat_the_named_audio(bench):
    """Rows that name a file are better knowledge than a default."""
    bench.audio("a.wav", 30)
    bench.audio("b.wav", 30)
    found = bench.align("onset duration stim_file\n5 30 a.wav\n", audio="b.wav")
    assert [s.source.path.name for s in found.segments] == ["a.wav"]
    assert any("'b.wav' is not used" in note for note in found.notes)


def test_blocks_without_a_stim_file(bench):
    """A published film dataset: block rows without stim_file say nothing about the audio."""
    events = "onset duration trial_type value\n1.2 0 start_task 1\n1.2 30 music 2\n31 30 speech 3\n"
    bench.audio("film.wav", 80)
    text = bench.error(DataError, events)
    for part in ("Nothing says what was heard", "stim_file", "--audio", "film.wav"):
        assert part in text
    assert bench.align(events, audio="film.wav").segments[0].interval == Interval(0, 80)


# ------------------------------------------------------------------- artifacts, bad rows


def test_bad_rows_are_artifacts(bench):
    """Seizures and loose cables must not become training data; overlapping marks are one."""
    bench.audio("a.wav", 90)
    found = bench.align(
        "onset duration trial_type stim_file\n5 90 story a.wav\n10 2 bad n/a\n"
        "11 3 BAD_seizure a.wav\n40 5 Bad_boundary n/a\n98 10 bad n/a\n50 0 bad n/a\n"
        "60 4 badminton n/a\n"
    )
    assert found.artifacts == (Interval(10, 14), Interval(40, 45), Interval(98, 100))
    assert len(found.segments) == 1
    assert any("1 artifact rows without extent" in note for note in found.notes)


def test_rows_without_onset_are_skipped_and_counted(bench):
    """One missing onset costs one row, not the recording."""
    bench.audio("a.wav", 5)
    bench.audio("b.wav", 5)
    found = bench.align("onset duration stim_file\nn/a 5 a.wav\n20 5 b.wav\n")
    assert [s.source.path.name for s in found.segments] == ["b.wav"]
    assert any("1 rows without an onset" in note for note in found.notes)


def test_images_and_repeated_rows_are_left_out(bench):
    """Rows for pictures, and a second annotation of the same moment, are no second sound."""
    bench.audio("a.wav", 5)
    found = bench.align(
        "onset duration stim_file value\n10 5 a.wav 1\n10 5 a.wav 2\n30 1 face.png 3\n"
    )
    assert len(found.segments) == 1
    assert any("1 rows repeat" in note for note in found.notes)
    assert any("image" in note for note in found.notes)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ("", "empty"),
        ("onset duration stim_file\n", "empty"),
        ("start duration stim_file\n1 2 a.wav\n", "no column 'onset'"),
        ("onset duration stim_file\nn/a 2 a.wav\nn/a 2 a.wav\n", "No row of events.tsv"),
        ("onset duration stim_file\nsoon 2 a.wav\n", "no time"),
        ("onset duration stim_file\n1 -2 a.wav\n", "no time"),
        ("onset duration stim_file\ninf 2 a.wav\n", "no time"),
        ("onset duration stim_file\n100 2 a.wav\n", "outside the recording"),
        ("onset duration stim_file\n-1 2 a.wav\n", "outside the recording"),
        ("onset duration stim_file\n1 70 a.wav\n", "shorter than the events say"),
        ("onset duration stim_file\n1 40 a.wav\n50 70 a.wav\n", "shorter than the events say"),
        ("onset duration stim_file\n1 2 ../../x\n", "leads out of the dataset"),
        ("onset duration stim_file\n1 2 /etc/passwd\n", "leads out of the dataset"),
        ("onset duration stim_file\n1 2 sub/../../../x.wav\n", "leads out of the dataset"),
        ("onset duration stim_file\n1 2 broken.wav\n", "cannot be read"),
        ("onset duration stim_file\n1 2 silence.wav\n", "is empty"),
    ],
)
def test_bad_events_are_data_errors(bench, events, message):
    """Each of these once cost somebody an afternoon; each is one clear message."""
    bench.audio("a.wav", 60)
    bench.audio("silence.wav", 0)
    (bench.stimuli / "broken.wav").write_bytes(b"RIFF0000 this is not audio")
    text = bench.error(DataError, events)
    assert message in text
    assert "where:" in text


def test_missing_and_undownloaded_stimuli(bench):
    """The message has the file, the row or the command that fetches it."""
    assert "nope.wav" in bench.error(MissingInputError, "onset duration stim_file\n1 2 nope.wav\n")
    (bench.stimuli / "far.wav").symlink_to("../.git/annex/objects/zz")
    text = bench.error(MissingInputError, "onset duration stim_file\n1 2 far.wav\n")
    assert f"cd {bench.root} && datalad get stimuli/far.wav" in text


@pytest.mark.parametrize("name", ["stimuli/a.wav", "bids::stimuli/a.wav", "./a.wav"])
def test_other_ways_to_write_the_path(bench, name):
    """BIDS URIs and paths from the dataset's root are common and mean one thing."""
    bench.audio("a.wav", 5)
    assert bench.align(f"onset duration stim_file\n1 5 {name}\n").segments[0].source.path == (
        bench.stimuli / "a.wav"
    )


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_blocks_land_where_they_were_put(tmp_path_factory, data):
    """Whatever the gaps and lengths, a time inside a block is that block's audio time."""
    bench = Bench(tmp_path_factory.mktemp("blocks"))
    lines, truth, time = [], [], 0.0
    for i in range(data.draw(st.integers(1, 5))):
        time += data.draw(st.floats(0.5, 20))
        length = data.draw(st.floats(1, 10))
        bench.audio(f"{i}.wav", length)
        lines.append(f"{time!r} n/a {i}.wav\n")
        truth.append((f"{i}.wav", time, length))
        time += length
    lines = data.draw(st.permutations(lines))
    found = bench.align("onset duration stim_file\n" + "".join(lines), duration=time + 1)
    assert len(found.segments) == len(truth)
    for name, start, length in truth:
        inside = start + data.draw(st.floats(0.01, 0.9)) * length
        assert heard_at(found, inside) == (name, pytest.approx(inside - start, abs=2 / RATE))
