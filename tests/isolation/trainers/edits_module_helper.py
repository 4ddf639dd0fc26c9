"""The module that edits_module edits and imports."""

STEPS = 3
