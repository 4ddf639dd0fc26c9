"""Builds the binaries of the testbed from the Go module proxy, once for each state of the go.sum files: `python build.py` prints the folder.

It takes some five minutes on two cores, and nothing where they are built already. KATUNA_TESTBED_BIN names a folder that has them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent / "gomod"
VERSION = "v1.35.4"
_STAMP = [
    *(f"-X k8s.io/{module}.gitVersion={VERSION}" for module in ("component-base/version", "client-go/pkg/version")),
    *(f"-X k8s.io/component-base/version.git{name}={value}" for name, value in (("Major", "1"), ("Minor", "35"))),
]
"""Without these the servers call themselves v0.0.0."""

BINARIES: dict[str, tuple[str, str]] = {
    "etcd": ("control", "go.etcd.io/etcd/server/v3"),
    "kube-apiserver": ("control", "k8s.io/kubernetes/cmd/kube-apiserver"),
    "kube-controller-manager": ("control", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    "kube-scheduler": ("control", "k8s.io/kubernetes/cmd/kube-scheduler"),
    "training-operator": ("operators", "github.com/kubeflow/training-operator/cmd/training-operator.v1"),
}
"""Name, and the go.mod and package that it is built from."""

MANIFESTS = {"training-operator": "manifests/base"}
"""What is kept of a module beside its binary: its CRDs and webhooks."""


class CannotBuild(Exception):
    """This machine cannot have the testbed; says why."""


def why_not() -> str:
    """Why this machine cannot run the testbed at all; "" where it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "the testbed's node needs Linux and root"
    missing = [name for name in ("openssl", "ip", "nsenter", "unshare") if shutil.which(name) is None]
    return f"the testbed needs {', '.join(missing)}" if missing else ""


def folder() -> Path:
    """Where the binaries are, or would be."""
    if own := os.environ.get("KATUNA_TESTBED_BIN"):
        return Path(own)
    files = sorted(HERE.rglob("go.*"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files) + repr((BINARIES, MANIFESTS, _STAMP)).encode())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "katuna-testbed" / digest.hexdigest()[:20]


def built() -> bool:
    return all((folder() / name).exists() for name in BINARIES)


def build() -> Path:
    """The folder with all binaries, built where they are missing. Raises CannotBuild."""
    target = folder()
    if built():
        return target
    if why := why_not():
        raise CannotBuild(why)
    if shutil.which("go") is None:
        raise CannotBuild("the testbed is built by Go 1.25 or newer, and there is none")
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built():
            with tempfile.TemporaryDirectory(dir=target.parent) as making:
                _build_into(Path(making))
                Path(making).chmod(0o755)
                Path(making).rename(target)
                Path(making).mkdir()
    return target


def _build_into(made: Path) -> None:
    for name, (module, package) in BINARIES.items():
        stamp = _STAMP if package.startswith("k8s.io/") else []
        _go(module, "build", "-p", "2", "-trimpath", "-ldflags", " ".join(["-s", "-w", *stamp]), "-o", str(made / name), package)
        if name in MANIFESTS:
            root = _go(module, "list", "-m", "-f", "{{.Dir}}", package.partition("/cmd/")[0]).strip()
            shutil.copytree(Path(root) / MANIFESTS[name], made / f"{name}-manifests")
    for path in made.rglob("*"):
        path.chmod(0o755)


def _go(module: str, *arguments: str) -> str:
    env = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -mod=readonly", "GOTOOLCHAIN": "local", "GOGC": "400"}
    done = subprocess.run(["go", *arguments], cwd=HERE / module, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotBuild(f"go {' '.join(arguments)}: {done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    try:
        print(build())
    except CannotBuild as error:
        sys.exit(f"{error}")
