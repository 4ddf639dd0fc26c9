"""The module that beside_module imports."""

STEPS = 3
