"""``python -m purerl`` is the command line."""

import sys

from purerl.cli import main

if __name__ == "__main__":
    sys.exit(main())
