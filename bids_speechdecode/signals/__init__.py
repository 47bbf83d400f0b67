"""Recording to clean, scaled signal at a low rate; knows nothing of BIDS."""
