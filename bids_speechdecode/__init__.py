"""A BIDS App that decodes heard speech from intracranial EEG."""

__version__ = "0.1.0"
