"""The module that imports_late imports."""

EDITION = "old"
