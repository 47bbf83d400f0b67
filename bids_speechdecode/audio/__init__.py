"""Sound to targets; knows nothing of BIDS."""
