"""``python -m bids_speechdecode``."""

import sys

from bids_speechdecode.cli import main

if __name__ == "__main__":
    sys.exit(main())
