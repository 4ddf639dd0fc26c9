"""What stands for the Katib SDK's `report_metrics` in a trial with the collector Push: FOLDER goes first on its PYTHONPATH.

The package kubeflow below is read by the trial's interpreter, whichever that is: standard library only, nothing newer than Python
3.8. Only report_metrics is ours; everything else is the real package's where there is one, loaded when it is first asked for.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
FILE_VARIABLE = "KATUNA_PUSH_FILE"
"""The variable that tells a trial where reported metrics go (kubeflow/katib/api/report_metrics.py reads it)."""
