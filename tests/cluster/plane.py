"""A real Kubernetes control plane, with the Training Operator, in a folder of its own and without containers.

`Plane(folder).start()` runs etcd, the API server, the controller manager, the scheduler, the operator and a node (node.py) that runs pods as
processes. They all end with `stop`, and with the process that started them. `python plane.py FOLDER` runs one until Ctrl-C.
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from build import CannotBuild, build
from kube import Kube, KubeError

HERE = Path(__file__).parent
PATIENCE_S = 120.0
ADMIN, USER = "admin-of-the-testbed", "user-of-the-testbed"
"""Tokens. They open nothing but a server on loopback of this machine."""
CONTROLLERS = (
    *("serviceaccount-controller", "serviceaccount-token-controller", "root-ca-certificate-publisher-controller"),
    *("garbage-collector-controller", "pod-garbage-collector-controller", "namespace-controller", "job-controller"),
    *("ttl-after-finished-controller", "resourcequota-controller", "endpointslice-controller", "endpoints-controller"),
)
WEBHOOK = "training-operator.kubeflow.svc"
NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", WEBHOOK)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


class Plane:
    """`folder` is made, and holds all that there is of it. `gpus` is what its node says to have."""

    def __init__(self, folder: Path, *, gpus: int = 0) -> None:
        self.folder = folder.resolve()
        self._gpus = gpus
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        names = ("etcd", "peer", "api", "manager", "scheduler", "webhook", "metrics", "health", "kubelet")
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.kube = Kube(self._ports["api"], ADMIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def kubeconfig(self) -> Path:
        """Its contexts are `admin` and `user`; the user may do what Roles give to him."""
        return self.folder / "kubeconfig"

    def start(self) -> Self:
        """Raises CannotBuild where this machine cannot have one."""
        binaries = build()
        for name in ("etcd", "pods", "claims", "pki", "log", "tmp"):
            # Of an earlier one: nothing of it is gone on with.
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in ("pki", "log", "tmp", "pods"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        try:
            self._make_keys()
            self._write_kubeconfig()
            self._start_control_plane(binaries)
            self._await("the API server", lambda: self.kube.call("GET", "/readyz") == "ok")
            self._start_controllers(binaries)
            self._start_operator(binaries)
            self._start_node()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        for process in reversed(self._processes.values()):
            process.send_signal(signal.SIGTERM)
        give_up = time.monotonic() + 10
        for process in reversed(self._processes.values()):
            try:
                process.wait(max(0.1, give_up - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def outage(self, seconds: float) -> None:
        """Ends the API server, and starts it again after a while."""
        process = self._processes.pop("kube-apiserver")
        process.kill()
        process.wait()
        time.sleep(seconds)
        self._start_api_server(build())
        self._await("the API server", lambda: self.kube.call("GET", "/readyz") == "ok")

    def asked(self, namespace: str) -> set[tuple[str, str, str]]:
        """API group, resource and verb of all that the user asked for in a namespace."""
        found = set()
        for line in (self.folder / "log/audit").read_text().splitlines():
            each = json.loads(line)
            about = each.get("objectRef") or {}
            if about.get("namespace") != namespace:
                continue
            resource = "/".join(filter(None, (about.get("resource"), about.get("subresource"))))
            found.add((about.get("apiGroup", ""), resource, each["verb"]))
        return found

    def log(self, name: str) -> str:
        return (self.folder / "log" / name).read_text(errors="replace")

    def namespace(self, name: str, **labels: str) -> str:
        """A new namespace, ready for pods. `__` stands for a slash and `_` for a dash in a label's name."""
        named = {key.replace("__", "/").replace("_", "-"): value for key, value in labels.items()}
        self.kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": named}})
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        self._await(f"namespace {name}", lambda: bool(self.kube.get(account)))
        return name

    def grant(self, namespace: str, role: Mapping[str, Any]) -> None:
        """Gives the user the rules of a Role in the namespace."""
        metadata = {"name": role["metadata"]["name"], "namespace": namespace}
        self.kube.apply({**role, "metadata": metadata})
        self.kube.apply(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "RoleBinding",
                "metadata": metadata,
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": metadata["name"]},
                "subjects": [{"kind": "User", "name": "user", "apiGroup": "rbac.authorization.k8s.io"}],
            }
        )

    # Its parts

    def _make_keys(self) -> None:
        """One authority, and one certificate for every server."""
        pki = self.folder / "pki"
        alternatives = ",".join(["IP:127.0.0.1", *(f"DNS:{name}" for name in NAMES)])
        # The operator keeps our certificate where the authority has the name that it would give its own.
        authority = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "subjectAltName=DNS:training-operator-ca"]
        authority += ["-addext", "keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign"]
        (pki / "extensions").write_text(
            f"subjectAltName={alternatives}\nextendedKeyUsage=serverAuth\nkeyUsage=digitalSignature,keyEncipherment\n"
        )
        days = ["-days", "3650"]
        for command in (
            ["genrsa", "-out", "sa.key", "2048"],
            ["rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub"],
            [
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-keyout",
                "ca.pem",
                "-out",
                "ca.crt",
                "-subj",
                "/CN=testbed",
                *days,
                *authority,
            ],
            ["rsa", "-traditional", "-in", "ca.pem", "-out", "ca.key"],
            ["req", "-newkey", "rsa:2048", "-nodes", "-keyout", "tls.key", "-out", "tls.csr", "-subj", "/CN=testbed"],
            [
                "x509",
                "-req",
                "-in",
                "tls.csr",
                "-CA",
                "ca.crt",
                "-CAkey",
                "ca.key",
                "-CAcreateserial",
                *days,
                "-extfile",
                "extensions",
                "-out",
                "tls.crt",
            ],
        ):
            subprocess.run(["openssl", *command], cwd=pki, check=True, capture_output=True)
        (pki / "tokens.csv").write_text(f"{ADMIN},admin,admin,system:masters\n{USER},user,user,users\n")

    def _encoded(self, name: str) -> str:
        return base64.b64encode((self.folder / "pki" / name).read_bytes()).decode()

    def _write_kubeconfig(self) -> None:
        server = {"server": f"https://127.0.0.1:{self._ports['api']}", "certificate-authority-data": self._encoded("ca.crt")}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "testbed", "cluster": server}],
            "users": [{"name": name, "user": {"token": token}} for name, token in (("admin", ADMIN), ("user", USER))],
            "contexts": [{"name": name, "context": {"cluster": "testbed", "user": name}} for name in ("admin", "user")],
            "current-context": "admin",
        }
        self.kubeconfig.write_text(yaml.safe_dump(config))

    def _run(self, name: str, *command: str) -> None:
        """Ends with this process, whatever becomes of it."""
        with (self.folder / "log" / name).open("wb") as log:
            self._processes[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _start_control_plane(self, binaries: Path) -> None:
        ports = self._ports
        store = f"http://127.0.0.1:{ports['etcd']}"
        peer = f"http://127.0.0.1:{ports['peer']}"
        self._run(
            "etcd",
            str(binaries / "etcd"),
            *("--data-dir", str(self.folder / "etcd"), "--unsafe-no-fsync"),
            *("--listen-client-urls", store, "--advertise-client-urls", store),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"),
        )
        self._start_api_server(binaries)

    def _start_api_server(self, binaries: Path) -> None:
        pki, ports = self.folder / "pki", self._ports
        self._run(
            "kube-apiserver",
            str(binaries / "kube-apiserver"),
            *(f"--etcd-servers=http://127.0.0.1:{ports['etcd']}", f"--secure-port={ports['api']}", "--bind-address=127.0.0.1"),
            *(f"--tls-cert-file={pki}/tls.crt", f"--tls-private-key-file={pki}/tls.key", f"--token-auth-file={pki}/tokens.csv"),
            *("--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={pki}/sa.pub"),
            *(f"--service-account-signing-key-file={pki}/sa.key", "--authorization-mode=RBAC"),
            *("--service-cluster-ip-range=10.96.0.0/16", "--allow-privileged=true"),
            *(f"--audit-log-path={self.folder}/log/audit", f"--audit-policy-file={HERE}/audit.yaml"),
        )

    def _start_controllers(self, binaries: Path) -> None:
        pki, ports = self.folder / "pki", self._ports
        common = ["--kubeconfig", str(self.kubeconfig), "--leader-elect=false", "--bind-address=127.0.0.1"]
        self._run(
            "kube-controller-manager",
            str(binaries / "kube-controller-manager"),
            *(*common, f"--secure-port={ports['manager']}", f"--controllers={','.join(CONTROLLERS)}"),
            *(f"--service-account-private-key-file={pki}/sa.key", f"--root-ca-file={pki}/ca.crt"),
        )
        self._run("kube-scheduler", str(binaries / "kube-scheduler"), *common, f"--secure-port={ports['scheduler']}")

    def _start_operator(self, binaries: Path) -> None:
        """The Training Operator. Its webhook server reads a fixed folder of /tmp, so it gets a /tmp of its own."""
        manifests, ports, own = binaries / "training-operator-manifests", self._ports, self.folder / "tmp"
        self.namespace("kubeflow")
        for path in sorted((manifests / "crds").glob("kubeflow.org_*.yaml")):
            for each in documents(path):
                self.kube.apply(each)
        files = ("ca.crt", "ca.key", "tls.crt", "tls.key")
        metadata = {"name": "training-operator-webhook-cert", "namespace": "kubeflow"}
        data = {name: self._encoded(name) for name in files}
        self.kube.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})
        certificates = own / "k8s-webhook-server/serving-certs"
        certificates.mkdir(parents=True, exist_ok=True)
        for name in files:
            shutil.copy(self.folder / "pki" / name, certificates)
        shutil.copy(self.kubeconfig, own)
        self._register_webhook(manifests / "webhook/manifests.yaml")
        self._run(
            "training-operator",
            *("unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount --bind "$0" /tmp && exec "$@"', str(own)),
            *(str(binaries / "training-operator"), "-kubeconfig", "/tmp/kubeconfig", "-enable-scheme", "pytorchjob"),  # noqa: S108
            *("-pytorch-init-container-image", "busybox", "-webhook-server-port", str(ports["webhook"])),
            *(
                "-metrics-bind-address",
                f"127.0.0.1:{ports['metrics']}",
                "-health-probe-bind-address",
                f"127.0.0.1:{ports['health']}",
            ),
        )
        self._await(
            "the operator's webhook", lambda: socket.create_connection(("127.0.0.1", ports["webhook"]), 1).close() is None
        )

    def _register_webhook(self, path: Path) -> None:
        (found,) = [each for each in documents(path) if each["kind"] == "ValidatingWebhookConfiguration"]
        found["metadata"] = {"name": "validator.training-operator.kubeflow.org"}
        found["webhooks"] = [each for each in found["webhooks"] if "pytorchjob" in each["name"]]
        for each in found["webhooks"]:
            service = each["clientConfig"].pop("service")
            url = f"https://127.0.0.1:{self._ports['webhook']}{service['path']}"
            each["clientConfig"] = {"url": url, "caBundle": self._encoded("ca.crt")}
        self.kube.apply(found)

    def _start_node(self) -> None:
        config = {
            "folder": str(self.folder),
            "api": self._ports["api"],
            "port": self._ports["kubelet"],
            "token": ADMIN,
            "gpus": self._gpus,
            "shown": [str(path) for path in shown()],
            "path": [str(Path(sys.executable).parent), str(HERE / "shims")],
        }
        (self.folder / "node.json").write_text(json.dumps(config))
        self._run("node", sys.executable, str(HERE / "node.py"), str(self.folder / "node.json"))
        self._await("the node", lambda: "spec" in self.kube.get("/api/v1/nodes/testbed"))
        self.namespace("default")

    def _await(self, what: str, holds: Any) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(OSError, KubeError):
                if holds():
                    return
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with {process.returncode}: {self.log(name)[-2000:]}")
            assert time.monotonic() < give_up, f"{what} does not answer"
            time.sleep(0.05)


def documents(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def shown() -> Sequence[Path]:
    """What pods have to see of this machine that may lie on a file system of its own: the interpreter, its environment, katuna."""
    places = [Path(sys.base_prefix), Path(sys.prefix), HERE.parents[1]]
    return list(dict.fromkeys(path.resolve() for path in places))


if __name__ == "__main__":
    try:
        with Plane(Path(sys.argv[1])) as plane:
            plane.start()
            print(f"export KUBECONFIG={plane.kubeconfig}", flush=True)
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
    except CannotBuild as error:
        sys.exit(f"no cluster here: {error}")
