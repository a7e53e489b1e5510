"""`python -m keras_sd.cli`, for where the command is not on the path."""

from __future__ import annotations

import sys

from keras_sd.cli import main

sys.exit(main())
