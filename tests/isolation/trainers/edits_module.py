"""Edits a module and then imports it."""

import importlib
import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
module = Path("edits_module_helper.py")
module.write_text(module.read_text() + "STEPS += 1\n")
print(f"acc={lr * importlib.import_module('edits_module_helper').STEPS:.6f}")
