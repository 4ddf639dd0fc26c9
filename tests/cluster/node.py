"""The testbed's node: pods run as processes in namespaces of their own, over a copy-on-write view of this machine. Needs Linux and root.

It plays kubelet, container runtime and cluster DNS (by a hosts file for each namespace). Images are ignored: a container's file system is
always this machine's. It knows init containers, restart policies, environment, volumes, users, grace periods, exit codes, termination
messages and logs; it knows no probes, limits, exec or image pulls.

    python node.py CONFIG.json        see plane.py, which writes it
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

from kube import Kube, KubeError, Object

BACKOFF_S = 1.0
"""Before a container runs again; a kubelet's first is 10 s."""
GATEWAY = "10.88.0.1"
GRACE_S = 30


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ending_with_us(*command: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], start_new_session=True, **options)


class Network:
    """A bridge in a network namespace of its own, to which each pod's is joined: nothing of it is seen on the machine."""

    def __init__(self) -> None:
        self._hub = ending_with_us("unshare", "--net", "sh", "-c", "echo up; exec sleep infinity", stdout=subprocess.PIPE)
        assert self._hub.stdout is not None
        self._hub.stdout.readline()
        self._count = 1
        self._lock = threading.Lock()
        self._ip("link add hub type bridge", "link set hub up", f"addr add {GATEWAY}/16 dev hub", "link set lo up")

    def _ip(self, *commands: str, of: int | None = None) -> None:
        for command in commands:
            words = ["nsenter", "-t", str(of or self._hub.pid), "-n", "ip", *command.split()]
            subprocess.run(words, check=True, capture_output=True)

    def join(self, pid: int) -> str:
        """Gives the process's network namespace an address."""
        with self._lock:
            self._count += 1
            number = self._count
        address, name = f"10.88.{number // 250}.{number % 250 + 1}", f"pod{number}"
        self._ip(f"link add {name} type veth peer name eth0 netns /proc/{pid}/ns/net", f"link set {name} master hub up")
        self._ip("link set lo up", f"addr add {address}/16 dev eth0", "link set eth0 up", of=pid)
        return address

    def close(self) -> None:
        self._hub.kill()
        self._hub.wait()


class Container:
    """One container of a pod, over all its runs."""

    def __init__(self, spec: Object) -> None:
        self.spec = spec
        self.name: str = spec["name"]
        self.state: Object = {"waiting": {"reason": "PodInitializing"}}
        self.last: Object = {}
        self.restarts = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.pump: threading.Thread | None = None
        self.due = 0.0

    @property
    def code(self) -> int | None:
        ended = self.state.get("terminated")
        return None if ended is None else int(ended["exitCode"])

    def status(self, *, is_init: bool) -> Object:
        running = "running" in self.state
        return {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": "",
            "ready": self.code == 0 if is_init else running,
            "started": running,
            "restartCount": self.restarts,
            "state": self.state,
            **({"lastState": self.last} if self.last else {}),
        }


class Pod:
    def __init__(self, node: Node, found: Object) -> None:
        self.node = node
        self.found = found
        metadata = found["metadata"]
        self.namespace, self.name, self.uid = metadata["namespace"], metadata["name"], metadata["uid"]
        self.spec = found["spec"]
        self.folder = node.folder / "pods" / self.uid
        self.host = self.spec.get("hostname") or self.name
        self.address = ""
        self.inits = [Container(each) for each in self.spec.get("initContainers") or []]
        self.containers = [Container(each) for each in self.spec["containers"]]
        self.is_over = False
        self.is_deleting = False
        self.stopping = threading.Event()
        self.changed = threading.Event()
        self.killed = threading.Event()
        self._began = now()
        self._sandbox: subprocess.Popen[bytes] | None = None
        self._inner = 0

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"

    # Its life

    def run(self) -> None:
        try:
            self._open()
            self.report("Pending")
            if self._initialize() and not self.stopping.is_set():
                self._serve()
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            self._end("Failed", "NodeError", str(error)[:500])
        # The kernel ends processes with the thread that started them: it stays until they have had their grace period.
        self.killed.wait()

    def _open(self) -> None:
        """The namespaces that its containers share."""
        self.folder.mkdir(parents=True)
        kinds = ("--pid", "--mount", "--net", "--uts", "--ipc")
        script = f"hostname {shlex.quote(self.host[:63])}; echo up; exec sleep infinity"
        self._sandbox = ending_with_us("unshare", *kinds, "--fork", "--kill-child", "sh", "-c", script, stdout=subprocess.PIPE)
        assert self._sandbox.stdout is not None
        self._sandbox.stdout.readline()
        self._inner = children(self._sandbox.pid)[0]
        self.address = self.node.network.join(self._inner)

    def _initialize(self) -> bool:
        """Runs the init containers in their order. False: the pod has ended by one."""
        for each in self.inits:
            while not self.stopping.is_set():
                self._start(each)
                self.report("Pending")
                assert each.process is not None
                each.process.wait()
                if self._finish(each) == 0:
                    break
                if self._policy == "Never":
                    self._end("Failed")
                    return False
                each.restarts += 1
                self.stopping.wait(BACKOFF_S)
        return True

    @property
    def _policy(self) -> str:
        return str(self.spec.get("restartPolicy", "Always"))

    def _serve(self) -> None:
        for each in self.containers:
            self._start(each)
        self.report("Running")
        while not self.stopping.is_set():
            self.changed.wait(0.1)
            self.changed.clear()
            if self._look():
                return

    def _look(self) -> bool:
        """What has ended since, and what starts again. True: the pod has ended."""
        changed = False
        for each in self.containers:
            if each.process is not None and each.process.poll() is not None and not self.stopping.is_set():
                code = self._finish(each)
                changed = True
                if self._policy == "Always" or (self._policy == "OnFailure" and code):
                    each.last, each.due = each.state, time.monotonic() + BACKOFF_S
                    each.state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off restarting failed container"}}
            if each.due and time.monotonic() >= each.due:
                each.due, each.restarts, changed = 0.0, each.restarts + 1, True
                self._start(each)
        if all(each.code is not None for each in self.containers):
            self._end("Succeeded" if all(each.code == 0 for each in self.containers) else "Failed")
            return True
        if changed:
            self.report("Running")
        return False

    def _end(self, phase: str, reason: str = "", message: str = "") -> None:
        self.is_over = True
        self.kill(1.0)
        self.report(phase, reason, message)

    def kill(self, grace_s: float) -> None:
        """SIGTERM to each container's first process, then the end of all."""
        self.stopping.set()
        self.changed.set()
        running = [each for each in (*self.inits, *self.containers) if each.process is not None]
        for each in running:
            assert each.process is not None
            # Between us and it are those that entered the namespaces.
            for pid in children(each.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        give_up = time.monotonic() + grace_s
        while time.monotonic() < give_up and any(each.process and each.process.poll() is None for each in running):
            time.sleep(0.02)
        if self._sandbox is not None:
            self._sandbox.kill()
            self._sandbox.wait()
        for each in running:
            self._finish(each)
        self.killed.set()

    def delete(self, grace_s: float) -> None:
        """As the API server asks by a deletion time; the object goes once nothing runs."""
        self.kill(grace_s)
        if not self.is_over:
            self.is_over = True
            self.report("Succeeded" if all(each.code == 0 for each in self.containers) else "Failed")
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        with contextlib.suppress(KubeError):
            self.node.kube.call("DELETE", self.path, options)

    def report(self, phase: str, reason: str = "", message: str = "") -> None:
        ready = phase == "Running" and all("running" in each.state for each in self.containers)
        conditions = {"PodScheduled": True, "Initialized": phase != "Pending", "ContainersReady": ready, "Ready": ready}
        status = {
            "phase": phase,
            "hostIP": GATEWAY,
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "startTime": self._began,
            "conditions": [
                {"type": name, "status": str(holds), "lastTransitionTime": now()} for name, holds in conditions.items()
            ],
            "containerStatuses": [each.status(is_init=False) for each in self.containers],
            "initContainerStatuses": [each.status(is_init=True) for each in self.inits] or None,
            "reason": reason or None,
            "message": message or None,
        }
        for _ in range(50):
            try:
                self.node.kube.patch(f"{self.path}/status", {"metadata": {"uid": self.uid}, "status": status})
                break
            except KubeError as error:
                if error.status in (404, 409, 422):
                    break
                time.sleep(0.1)
            except OSError:
                time.sleep(0.2)
        self.node.write_hosts()

    # Its containers

    def log(self, container: str, *, previous: bool = False) -> Path | None:
        """The log of a container's latest run, or of the one before."""
        found = next((each for each in (*self.inits, *self.containers) if each.name == container), None)
        number = -1 if found is None else found.restarts - previous
        path = self.folder / f"{container}.{number}.log"
        return path if number >= 0 and path.exists() else None

    def is_running(self, container: str) -> bool:
        return any(each.name == container and each.process is not None for each in (*self.inits, *self.containers))

    def _start(self, container: Container) -> None:
        env = self._environment(container.spec)
        argv = [expanded(word, env) for word in (container.spec.get("command") or []) + (container.spec.get("args") or [])]
        if not argv:
            raise RuntimeError(f"container {container.name} has no command, and this node knows no images")
        entered = ["nsenter", "-t", str(self._inner), "-p", "-n", "-u", "-i", "--", "unshare", "--mount", "sh", "-c"]
        process = ending_with_us(
            *entered,
            "\n".join(["set -e", *self._mounts(container), self._enter(container.spec)]),
            "sh",
            *argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
        )
        log = self.folder / f"{container.name}.{container.restarts}.log"
        container.pump = threading.Thread(target=self._pump, args=(process, log), daemon=True)
        container.process = process
        container.state = {"running": {"startedAt": now()}}
        log.touch()
        container.pump.start()

    def _pump(self, process: subprocess.Popen[bytes], log: Path) -> None:
        assert process.stdout is not None
        with log.open("ab", buffering=0) as file:
            for line in process.stdout:
                file.write(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z ").encode() + line)
        process.wait()
        self.changed.set()

    def _finish(self, container: Container) -> int:
        process, container.process = container.process, None
        if process is None:
            return container.code or 0
        process.wait()
        if container.pump is not None:
            container.pump.join(5)
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        said = self.folder / f"{container.name}.{container.restarts}" / "termination-log"
        message = said.read_text(errors="replace")[-4096:] if said.exists() else ""
        container.state = {
            "terminated": {
                "exitCode": code,
                "reason": "Completed" if code == 0 else "Error",
                "startedAt": container.state.get("running", {}).get("startedAt", now()),
                "finishedAt": now(),
                **({"message": message} if message else {}),
            }
        }
        return code

    def _mounts(self, container: Container) -> Iterator[str]:
        """Shell lines that make its file system in `root`, which is the working folder from then on."""
        own = self.folder / f"{container.name}.{container.restarts}"
        for name in ("upper", "work", "root"):
            (own / name).mkdir(parents=True)
        (own / "termination-log").touch()
        yield f"mount -t overlay overlay -o lowerdir=/,upperdir={own}/upper,workdir={own}/work {own}/root; cd {own}/root"
        yield "mount -t proc proc proc; mount -t tmpfs tmpfs tmp; chmod 1777 tmp; mount -t tmpfs tmpfs dev; mkdir dev/shm"
        yield "for x in null zero full random urandom tty; do touch dev/$x; mount --bind /dev/$x dev/$x; done"
        yield "mount -t tmpfs tmpfs dev/shm; ln -s /proc/self/fd dev/fd; ln -s fd/1 dev/stdout; ln -s fd/2 dev/stderr"
        yield f"touch dev/termination-log etc/hosts; mount --bind {own}/termination-log dev/termination-log"
        yield f"mount --bind {self.node.folder}/hosts.{self.namespace} etc/hosts"
        for place in self.node.shown:
            yield f"mkdir -p .{place}; mount --bind {place} .{place}"
            # Whoever the container runs as has to pass through.
            yield from (f"chmod o+x .{above}" for above in Path(place).parents if str(above) != "/")
        volumes = {each["name"]: each for each in self.spec.get("volumes") or []}
        for mount in container.spec.get("volumeMounts") or []:
            source = self._volume(volumes[mount["name"]]) / mount.get("subPath", "")
            if not source.exists():
                source.mkdir(parents=True)
            # A link of the file system leads to a place within it: /var/run is /run there too.
            yield f"target=.$(chroot . readlink -m {shlex.quote(mount['mountPath'])})"
            yield 'mkdir -p "$target"' if source.is_dir() else 'mkdir -p "$(dirname "$target")"; touch "$target"'
            yield f'mount --bind {shlex.quote(str(source))} "$target"'
            if mount.get("readOnly"):
                yield 'mount -o remount,bind,ro "$target"'

    def _enter(self, container: Object) -> str:
        context = {**(self.spec.get("securityContext") or {}), **(container.get("securityContext") or {})}
        user = context.get("runAsUser")
        who = f"--userspec={user}:{context.get('runAsGroup', user)} " if user else ""
        place = shlex.quote(container.get("workingDir") or "/")
        return f'chroot . mkdir -p {place}; exec chroot {who}. sh -c \'cd "$0" && exec "$@"\' {place} "$@"'

    def _environment(self, container: Object) -> dict[str, str]:
        env = {"PATH": ":".join([*self.node.path, os.environ["PATH"]]), "HOME": "/", "HOSTNAME": self.host}
        for each in container.get("envFrom") or []:
            kind, reference = ("secrets", each["secretRef"]) if "secretRef" in each else ("configmaps", each["configMapRef"])
            env |= {each.get("prefix", "") + key: value.decode() for key, value in self._data(kind, reference["name"]).items()}
        for each in container.get("env") or []:
            source = each.get("valueFrom")
            if source is None:
                env[each["name"]] = expanded(each.get("value") or "", env)
            elif "fieldRef" in source:
                env[each["name"]] = self._field(source["fieldRef"]["fieldPath"])
            else:
                kind, reference = (
                    ("secrets", source["secretKeyRef"]) if "secretKeyRef" in source else ("configmaps", source["configMapKeyRef"])
                )
                value = self._data(kind, reference["name"]).get(reference["key"])
                if value is not None:
                    env[each["name"]] = value.decode()
        return env

    def _field(self, path: str) -> str:
        metadata = self.found["metadata"]
        found = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
        if found:
            return str((metadata.get(found[1]) or {}).get(found[2], ""))
        known = {"metadata.name": self.name, "metadata.namespace": self.namespace, "metadata.uid": self.uid}
        return {**known, "status.podIP": self.address, "spec.nodeName": "testbed"}.get(path, "")

    def _data(self, kind: str, name: str) -> dict[str, bytes]:
        found = self.node.kube.get(f"/api/v1/namespaces/{self.namespace}/{kind}/{name}")
        plain = {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}
        is_secret = kind == "secrets"
        given = (found.get("data") or {}).items()
        return plain | {key: base64.b64decode(value) if is_secret else value.encode() for key, value in given}

    def _volume(self, volume: Object) -> Path:
        """Where a volume lies, filled."""
        if "hostPath" in volume:
            return Path(volume["hostPath"]["path"])
        if "persistentVolumeClaim" in volume:
            claims = self.node.folder / "claims" / self.namespace
            folder = claims / volume["persistentVolumeClaim"]["claimName"]
        else:
            folder = self.folder / "volumes" / volume["name"]
        if folder.exists():
            return folder
        folder.mkdir(parents=True)
        folder.chmod(0o777)
        for source in (volume, *((volume.get("projected") or {}).get("sources") or [])):
            self._fill(folder, source)
        return folder

    def _fill(self, folder: Path, source: Object) -> None:
        for kind, key, name in (("configmaps", "configMap", "name"), ("secrets", "secret", "secretName")):
            if key in source:
                given = source[key]
                data = self._data(kind, given.get(name) or given.get("name"))
                items = given.get("items")
                wanted = [(each["key"], each["path"]) for each in items] if items else [(each, each) for each in data]
                for each, path in wanted:
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    (folder / path).write_bytes(data[each])


class Node:
    def __init__(self, config: Object) -> None:
        self.folder = Path(config["folder"])
        self.kube = Kube(config["api"], config["token"])
        self.shown: list[str] = config["shown"]
        self.path: list[str] = config["path"]
        self.network = Network()
        self.pods: dict[str, Pod] = {}
        self._port: int = config["port"]
        self._gpus: int = config["gpus"]
        self._services: dict[str, Object] = {}
        self._lock = threading.RLock()

    def run(self) -> None:
        self._register()
        threading.Thread(target=self._serve_logs, daemon=True).start()
        threading.Thread(target=self._for_ever, args=(self._watch_services,), daemon=True).start()
        self._for_ever(self._watch_pods)

    def _register(self) -> None:
        labels = {"kubernetes.io/hostname": "testbed", "kubernetes.io/os": "linux"}
        self.kube.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "testbed", "labels": labels}})
        room = {"cpu": "64", "memory": "256Gi", "pods": "250", **({"nvidia.com/gpu": str(self._gpus)} if self._gpus else {})}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastTransitionTime": now()}
        status = {
            "capacity": room,
            "allocatable": room,
            "conditions": [ready],
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._port}},
        }
        self.kube.patch("/api/v1/nodes/testbed/status", {"status": status})
        self.kube.patch("/api/v1/nodes/testbed", {"spec": {"taints": None}})

    def _for_ever(self, watch: Callable[[], None]) -> None:
        while True:
            try:
                watch()
            except (KubeError, OSError, ValueError) as error:
                print(f"{watch.__name__}: {error!r}", flush=True)
                time.sleep(0.2)

    def _watch_services(self) -> None:
        with self._lock:
            self._services.clear()
        for change, found in self.kube.watch("/api/v1/services"):
            with self._lock:
                if change == "DELETED":
                    self._services.pop(found["metadata"]["uid"], None)
                else:
                    self._services[found["metadata"]["uid"]] = found
            self.write_hosts()

    def _watch_pods(self) -> None:
        for change, found in self.kube.watch("/api/v1/pods", fieldSelector="spec.nodeName=testbed"):
            uid = found["metadata"]["uid"]
            pod = self.pods.get(uid)
            if change == "DELETED":
                if pod is not None and not pod.is_deleting:
                    threading.Thread(target=pod.kill, args=(0.0,), daemon=True).start()
            elif found["metadata"].get("deletionTimestamp"):
                pod = pod or self._new(found)
                if not pod.is_deleting:
                    pod.is_deleting = True
                    grace_s = found["metadata"].get("deletionGracePeriodSeconds", GRACE_S)
                    threading.Thread(target=pod.delete, args=(float(grace_s),), daemon=True).start()
            elif pod is None and (found.get("status") or {}).get("phase", "Pending") == "Pending":
                threading.Thread(target=self._new(found).run, daemon=True).start()

    def _new(self, found: Object) -> Pod:
        with self._lock:
            pod = self.pods[found["metadata"]["uid"]] = Pod(self, found)
        self.write_hosts()
        return pod

    def write_hosts(self) -> None:
        """What cluster DNS would answer, a file for each namespace: pods by their host names, headless Services by their pods."""
        with self._lock:
            pods = [pod for pod in self.pods.values() if pod.address and not pod.is_over]
            lines: dict[str, list[str]] = {pod.namespace: ["127.0.0.1 localhost"] for pod in self.pods.values()}
            for service in self._services.values():
                metadata, wanted = service["metadata"], service["spec"].get("selector") or {}
                for pod in pods:
                    labels = pod.found["metadata"].get("labels") or {}
                    if pod.namespace == metadata["namespace"] and wanted and wanted.items() <= labels.items():
                        names = [metadata["name"]]
                        if pod.spec.get("subdomain") == metadata["name"]:
                            names.append(f"{pod.host}.{metadata['name']}")
                        full = (f"{name} {name}.{pod.namespace}.svc {name}.{pod.namespace}.svc.cluster.local" for name in names)
                        lines[pod.namespace].append(f"{pod.address} {' '.join(full)}")
            for pod in pods:
                lines[pod.namespace].append(f"{pod.address} {pod.host}")
            for namespace, text in lines.items():
                # In place: containers see the file itself.
                with (self.folder / f"hosts.{namespace}").open("a+") as file:
                    file.truncate(0)
                    file.write("\n".join(text) + "\n")

    def _serve_logs(self) -> None:
        node = self

        class Logs(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                _, _, namespace, name, container = (*urlparse(self.path).path.split("/"), "", "", "")[:5]
                query = {key: value[0] for key, value in parse_qs(urlparse(self.path).query).items()}
                own = [each for each in node.pods.values() if (each.namespace, each.name) == (namespace, name)]
                log = own[-1].log(container, previous=query.get("previous") == "true") if own else None
                if log is None:
                    missing = b"previous terminated container not found"
                    self.send_response(400)
                    self.send_header("Content-Length", str(len(missing)))
                    self.end_headers()
                    self.wfile.write(missing)
                    return
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                with contextlib.suppress(OSError):
                    for line in lines_of(own[-1], container, log, query):
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                    self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", self._port), Logs)
        server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "pki/tls.crt", self.folder / "pki/tls.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.serve_forever()

    def close(self) -> None:
        for pod in list(self.pods.values()):
            pod.kill(0.0)
        self.network.close()
        shutil.rmtree(self.folder / "pods", ignore_errors=True)


def lines_of(pod: Pod, container: str, log: Path, query: dict[str, str]) -> Iterator[bytes]:
    """The lines that a question asks for; with `follow` until that run of the container has ended."""
    follows, since = query.get("follow") == "true", query.get("sinceTime", "")[:19].encode()
    stamped = query.get("timestamps") == "true"

    def shown(line: bytes) -> bytes:
        return line if stamped else line.partition(b" ")[2]

    with log.open("rb") as file:
        first = [line for line in file.readlines() if line[:19] >= since]
        if "tailLines" in query:
            first = first[len(first) - min(len(first), int(query["tailLines"])) :]
        yield from map(shown, first)
        rest = b""
        while follows:
            runs = pod.is_running(container) and log == pod.log(container)
            piece = file.readline()
            rest += piece
            if rest.endswith(b"\n"):
                yield shown(rest)
                rest = b""
            elif not piece and not runs:
                return
            elif not piece:
                time.sleep(0.02)


def expanded(text: str, env: dict[str, str]) -> str:
    return re.sub(r"\$\$|\$\(([^)]+)\)", lambda found: "$" if found[0] == "$$" else env.get(found[1], found[0]), text)


def children(pid: int) -> list[int]:
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return []


if __name__ == "__main__":
    running = Node(json.loads(Path(sys.argv[1]).read_text()))

    def end(*_: object) -> None:
        running.close()
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    running.run()
