"""katuna: run Katib Experiments on this machine, from the file that a cluster takes."""

__version__ = "0.1.0"
