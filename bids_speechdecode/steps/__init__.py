"""The steps of the workflow: where BIDS files meet numbers."""
