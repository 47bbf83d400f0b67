"""Splits, windows, encoder, contrastive training, ranks; knows nothing of BIDS."""
