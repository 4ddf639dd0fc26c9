"""A control plane for each worker of the test run, and a namespace for each test."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from build import built, why_not
from laboratory import ROLE, Lab
from plane import Plane


@pytest.fixture(scope="session")
def plane() -> Iterator[Plane]:
    why = why_not() or (
        "" if built() else "the control plane is not built: python tests/cluster/build.py does it, once, in minutes"
    )
    if why and os.environ.get("CI") == "true":
        pytest.fail(why)
    if why:
        pytest.skip(why)
    # Not below /tmp, where pods have a folder of their own.
    with (
        tempfile.TemporaryDirectory(prefix="katuna-testbed-", dir="/var/tmp", ignore_cleanup_errors=True) as folder,
        Plane(Path(folder), gpus=2) as made,
    ):
        yield made.start()


@pytest.fixture
def lab(plane: Plane, tmp_path: Path, request: pytest.FixtureRequest) -> Lab:
    name = re.sub(r"[^a-z0-9]+", "-", f"{request.node.name}-{os.getpid()}".lower())[-50:].strip("-")
    plane.grant(plane.namespace(name), ROLE)
    (tmp_path / "work").mkdir()
    return Lab(plane, name, tmp_path / "work")
