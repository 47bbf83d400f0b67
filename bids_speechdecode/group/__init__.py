"""Participants as the random unit: tests and tables over participants."""
