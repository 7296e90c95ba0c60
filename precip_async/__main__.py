"""``python -m precip_async``: the ``precip`` command."""

from __future__ import annotations

import sys

from precip_async.cli import main

if __name__ == "__main__":
    sys.exit(main())
