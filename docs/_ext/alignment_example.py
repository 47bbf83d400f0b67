"""Directive ``alignment``: an events.tsv, and how the program reads it, asked at build time.

The content is the table (columns separated by blanks here, by tabs in the file); the options say
how long the recording is and which sounds there are. What is shown below the table is what
`bids_speechdecode.bids.alignment.align` returned, so an example cannot be wrong for long.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import soundfile
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from bids_speechdecode.bids.alignment import Alignment, Segment, align
from bids_speechdecode.bids.dataset import Channel, Recording
from bids_speechdecode.errors import SpeechDecodeError

RATE = 100  # hertz, of sounds that only need a length


def run_example(
    table: str, *, recording: float, sounds: dict[str, float], channel: str, audio: str
) -> Alignment:
    """Return how the program reads a table of events (columns separated by blanks).

    Parameters
    ----------
    table : str
        Empty for a recording without events.tsv.
    recording : float
        Length of the recording in seconds.
    sounds : dict
        Name to length in seconds of each file below ``stimuli``.
    channel : str
        ``NAME TYPE`` of a channel besides the brain channels, or empty.
    audio : str
        What the user types after ``--audio``, or empty.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve() / "data"
        stimuli = root / "stimuli"
        stimuli.mkdir(parents=True)
        for name, duration in sounds.items():
            soundfile.write(stimuli / name, np.zeros(round(duration * RATE)), RATE)
        events = root / "events.tsv"
        events.write_text("\n".join("\t".join(line.split()) for line in table.splitlines()) + "\n")
        channels = tuple(Channel(*words.split()) for words in [channel] if words)
        made = Recording(
            root=root,
            path=root / "sub-01_task-x_ieeg.edf",
            format="edf",
            participant="01",
            session=None,
            task="x",
            run=None,
            entities=(("sub", "01"), ("task", "x")),
            channels=channels,
            events_path=events if table.strip() else None,
        )
        try:
            return align(made, duration=recording, stimuli_dir=stimuli, audio=audio)
        except SpeechDecodeError as error:
            # The reader's dataset is not in a temporary folder.
            error.args = (str(error).replace(str(root), "/data"),)
            raise


def describe_segment(segment: Segment) -> str:
    """Return one stretch of sound in one line."""
    heard = segment.audio_interval
    drift = ""
    if segment.residual_ms is not None:
        drift = f"; drift {segment.clock.drift_ppm:+.0f} ppm, residual {segment.residual_ms:.1f} ms"
    return (
        f"{segment.interval.start:8.2f} to {segment.interval.stop:8.2f} s: "
        f"{segment.source.name} from {heard.start:.2f} to {heard.stop:.2f} s "
        f"({segment.version}){drift}\n{'':23}{segment.reading}"
    )


def describe_alignment(found: Alignment) -> str:
    """Return everything an alignment says, in lines."""
    lines = [describe_segment(segment) for segment in found.segments]
    lines += [f"{a.start:8.2f} to {a.stop:8.2f} s: left out (bad)" for a in found.artifacts]
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes)])


class AlignmentExample(SphinxDirective):
    """Show a table of events and how it is read."""

    has_content = True
    option_spec: ClassVar[dict] = {
        "recording": float,
        "sounds": directives.unchanged,
        "channel": directives.unchanged,
        "audio": directives.unchanged,
        "error": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        """Return the table, the reading and, where `error` says so, the message."""
        table = "\n".join(self.content)
        sounds = {
            name: float(seconds)
            for name, seconds in re.findall(r"(\S+) ([\d.]+) s", self.options.get("sounds", ""))
        }
        expected = self.options.get("error", "")
        try:
            found = run_example(
                table,
                recording=self.options["recording"],
                sounds=sounds,
                channel=self.options.get("channel", ""),
                audio=self.options.get("audio", ""),
            )
            shown, failed = describe_alignment(found), ""
        except SpeechDecodeError as error:
            shown = failed = str(error)
        if bool(expected) != bool(failed) or expected not in failed:
            raise ExtensionError(
                f"{self.get_location()}: expected {expected or 'a reading'!r}, got:\n{shown}"
            )
        given = [f"The recording lasts {self.options['recording']:g} s"]
        given += [f"`{name}` lasts {seconds:g} s" for name, seconds in sounds.items()]
        parts: list[nodes.Node] = []
        paragraph = nodes.paragraph()
        inlined, _ = self.state.inline_text("; ".join(given) + ".", self.lineno)
        paragraph += inlined
        parts.append(paragraph)
        if table.strip():
            parts.append(_literal(table))
        label = "The program stops (exit status 65):" if failed else "It is read as:"
        parts += [nodes.paragraph(text=label), _literal(shown)]
        return parts


def _literal(text: str) -> nodes.literal_block:
    block = nodes.literal_block(text, text)
    block["language"] = "text"
    return block


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("alignment", AlignmentExample)
    return {"parallel_read_safe": True}
