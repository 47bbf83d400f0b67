"""The rooms that know BIDS: query, alignment, electrodes, derivatives."""
