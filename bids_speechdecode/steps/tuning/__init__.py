"""The step of the analysis `fmri-tuning`: BOLD and sound in, tuned speech models out."""
