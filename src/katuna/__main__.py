"""`python -m katuna`."""

from katuna.cli import main

main()
