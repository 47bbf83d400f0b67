"""Experiments: many models of one participant, each trained once, and what their ranks say."""
