"""Ray reads this when it is imported: other tests may keep the processors busy while its machines start."""

from __future__ import annotations

import os

os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
