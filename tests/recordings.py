"""Where the recordings of the real Katib and Training Operator are. Users have none: tests that read them skip with that reason."""

from __future__ import annotations

from pathlib import Path

RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "data"
KATIB_TRUTH = RECORDINGS / "katib-truth"
KATIB_RECORDED = RECORDINGS / "katib-recorded"
OPERATOR_TRUTH = RECORDINGS / "operator-truth"
