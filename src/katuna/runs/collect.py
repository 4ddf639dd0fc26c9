"""Which files of a folder are code: text that nobody ignores, no data, no secret, nothing that katuna or another tool has made."""

from __future__ import annotations

import codecs
import fnmatch
import hashlib
import os
import re
import shutil
import stat
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from katuna.errors import CodeTooLarge
from katuna.runs.code import Code, CodeFile, CodeRoot, digest_of
from katuna.runs.ignore import NAME, Ignored, repository
from katuna.runs.rundir import CONTENTS, HALF
from katuna.trees import PLACE

MOST_FILES = 5_000
MOST_BYTES = 32 << 20
MOST_ENTRIES = 200_000
"""How many files and folders are looked at."""
LARGEST = 256 << 10
"""Bytes of a text; a larger one is data."""
HEAD = 8192
GIT_TIMEOUT_S = 5.0

TOOLS = frozenset({
    *(".git", ".hg", ".svn", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints", ".tox", ".nox"),
    *(".hypothesis", ".eggs", ".cache", ".local", "node_modules", CONTENTS),
})  # fmt: skip
MARKS = frozenset({"pyvenv.cfg", "conda-meta", "journal.jsonl"})
"""A folder that holds one of these is an environment, or a run."""
SECRETS = (
    *(".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "id_rsa*", "id_ed25519*", "id_ecdsa*", ".netrc", ".npmrc", ".pypirc"),
    *(".pgpass", ".git-credentials", "credentials*", ".aws", ".ssh", ".kube", ".gnupg", ".azure", ".docker", ".config"),
)
BINARY = (
    *(".7z", ".bz2", ".gz", ".jar", ".tar", ".tgz", ".whl", ".xz", ".zip", ".zst"),
    *(".avi", ".bmp", ".flac", ".gif", ".ico", ".jpeg", ".jpg", ".mkv", ".mov", ".mp3", ".mp4", ".ogg", ".pdf", ".png", ".tif", ".tiff"),
    *(".a", ".class", ".dll", ".dylib", ".exe", ".o", ".pyc", ".pyd", ".so", ".ttf", ".wav", ".webp", ".woff", ".woff2"),
    *(".arrow", ".bin", ".db", ".feather", ".h5", ".hdf5", ".idx", ".mdb", ".npy", ".npz", ".parquet", ".sqlite", ".sqlite3"),
    *(".ckpt", ".gguf", ".joblib", ".onnx", ".pb", ".pickle", ".pkl", ".pt", ".pth", ".safetensors", ".tfrecord"),
)  # fmt: skip

_SYSTEM = ("/dev", "/proc", "/sys")
_SECRET_NAME = re.compile("|".join(fnmatch.translate(name) for name in SECRETS), re.IGNORECASE)
_SECRET_MANIFEST = re.compile(rb"(?:^|[\s{,-])[\"']?kind[\"']?\s*:\s*[\"']?Secret(?:List)?\b")
_MANIFESTS = (".yaml", ".yml", ".json")


def collect(folders: Sequence[Path], leave_out: Sequence[Path] = ()) -> Code:
    """The code in `folders`, with the commit of the first folder. Files and folders in `leave_out` are no code. The
    `.gitignore` files of each folder count, with those below it and, in a git repository, those above it. Raises CodeTooLarge.
    """
    walk = _Walk({*_SYSTEM, *(str(path.resolve()) for path in leave_out)})
    roots = tuple(walk.root(folder.resolve()) for folder in folders)
    commit, dirty = git_state(folders[0].resolve(), leave_out) if folders else ("", None)
    return Code(roots, digest_of(roots), commit, dirty, walk.contents)


class _Walk:
    """Goes through folders and counts across all of them."""

    def __init__(self, left_out: set[str]) -> None:
        self.contents: dict[str, bytes] = {}
        self._left_out = left_out
        self._tops: list[str] = []
        self._sizes: dict[str, int] = {}
        self._total = 0
        self._entries: Counter[str] = Counter()
        self._looked_at = 0

    def root(self, folder: Path) -> CodeRoot:
        top = str(folder)
        self._tops.append(top)
        files = []
        for path, name in self._texts(top, Ignored.above(folder, _text_of)):
            file = self._file(path, name)
            if file is not None:
                files.append(file)
        return CodeRoot(top, tuple(sorted(files, key=lambda each: each.path)))

    def _texts(self, top: str, ignored: Ignored) -> Iterator[tuple[str, str]]:
        """What may be a text: its path, and its path below `top`."""
        folders = [(top, "", ignored)]
        while folders:
            folder, inside, ignored = folders.pop()
            entries = self._look(folder)
            names = {entry.name for entry in entries}
            if inside and names & MARKS:
                continue
            if NAME in names:
                ignored = ignored.within(folder)
            for entry in entries:
                is_folder = entry.is_dir(follow_symlinks=False)
                if self._is_none(entry, is_folder) or ignored.holds(entry.path, is_folder):
                    continue
                if is_folder:
                    folders.append((entry.path, f"{inside}{entry.name}/", ignored))
                else:
                    yield entry.path, inside + entry.name

    def _look(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as found:
                entries = list(found)
        except OSError:
            return []
        self._entries[folder] = len(entries)
        self._looked_at += len(entries)
        if self._looked_at > MOST_ENTRIES:
            raise self._too_large(f"more than {MOST_ENTRIES:,} files and folders to look at", self._entries, "{:,} of them")
        return entries

    def _is_none(self, entry: os.DirEntry[str], is_folder: bool) -> bool:
        name = entry.name
        return (
            name in TOOLS
            or entry.path in self._left_out
            or _SECRET_NAME.fullmatch(name) is not None
            or ((HALF.fullmatch(name) or PLACE.fullmatch(name)) is not None if is_folder else not _may_be_text(entry))
            or not _is_unicode(name)
        )

    def _file(self, path: str, name: str) -> CodeFile | None:
        """None for what is no text after all, or gone."""
        found = _read(path)
        if found is None:
            return None
        content, status = found
        if not _is_text(content, name) or (name.endswith(_MANIFESTS) and _SECRET_MANIFEST.search(content)):
            return None
        self._sizes[path] = len(content)
        self._total += len(content)
        if len(self._sizes) > MOST_FILES:
            raise self._too_large(f"more than {MOST_FILES:,} text files", dict.fromkeys(self._sizes, 1), "{:,} of them")
        if self._total > MOST_BYTES:
            raise self._too_large(f"text files of more than {MOST_BYTES >> 20} MiB", self._sizes, "{:,} bytes of them")
        sha256 = hashlib.sha256(content).hexdigest()
        self.contents[sha256] = content
        return CodeFile(name, 0o755 if status.st_mode & stat.S_IXUSR else 0o644, len(content), sha256, status.st_mtime_ns)

    def _too_large(self, what: str, weights: Mapping[str, int], share: str) -> CodeTooLarge:
        place, weight = _heaviest(self._tops, weights)
        return CodeTooLarge(
            f"{', '.join(self._tops)}: {what}, which is no code, {share.format(weight)} in {place}; name that in a .gitignore, "
            "or work in a folder that holds the code alone"
        )


def _may_be_text(entry: os.DirEntry[str]) -> bool:
    if not entry.is_file(follow_symlinks=False) or entry.name.lower().endswith(BINARY):
        return False
    try:
        return entry.stat(follow_symlinks=False).st_size <= LARGEST
    except OSError:
        return False


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read(path: str) -> tuple[bytes, os.stat_result] | None:
    """A regular file that is no larger than a text may be."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb", buffering=0) as file:
            status = os.fstat(fd)
            content = file.read(LARGEST + 1) if stat.S_ISREG(status.st_mode) else None
    except OSError:
        return None
    return None if content is None or len(content) > LARGEST else (content, status)


def _text_of(path: str) -> bytes | None:
    found = _read(path)
    return None if found is None else found[0]


def _is_text(content: bytes, name: str) -> bool:
    head = content[:HEAD]
    if b"\0" in head:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=len(content) <= HEAD)
    except UnicodeDecodeError:
        # Python's own may say in their first line how else they are written.
        return name.endswith(".py")
    return True


def _above(path: str) -> str:
    """The folder that an absolute path lies in; "" of the root."""
    return path.rpartition("/")[0] or ("/" if path != "/" else "")


def _heaviest(tops: Sequence[str], weights: Mapping[str, int]) -> tuple[str, int]:
    """The file or folder below `tops` that has the most of the weights, as deep as it has half of what is around it; where they are
    spread so that none has a tenth, one of `tops`."""
    total: Counter[str] = Counter()
    for path, weight in weights.items():
        place = path
        while place not in tops:
            total[place] += weight
            place = _above(place)
        total[place] += weight
    parts = [path for path in total if _above(path) in tops and 10 * total[path] >= sum(weights.values())]
    place = max(parts or tops, key=total.__getitem__)
    while within := [path for path in total if _above(path) == place and 2 * total[path] > total[place]]:
        place = within[0]
    return place, total[place]


def git_state(folder: Path, leave_out: Sequence[Path] = ()) -> tuple[str, bool | None]:
    """The commit that is checked out, and whether the tree, but for `leave_out`, differs from it; "" and None where nobody knows."""
    top = repository(folder)
    if top is None:
        return "", None
    commit = _git(top, "rev-parse", "--verify", "--quiet", "HEAD")
    inside = [path.relative_to(top) for path in map(Path.resolve, leave_out) if top in path.parents]
    without = [f":(exclude,top,literal){path}" for path in inside]
    status = _git(top, "status", "--porcelain", "--untracked-files=normal", "--ignore-submodules=none", "--", ":(top)", *without)
    return (commit or "").strip(), None if status is None else bool(status)


def _git(folder: Path, *words: str) -> str | None:
    """The output of git; None where git fails or is not installed. This git writes nothing, and runs no program that the
    repository names."""
    program = shutil.which("git")
    if program is None:
        return None
    env = {name: text for name, text in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
    argv = [program, "-C", str(folder), "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}", *words]
    try:
        done = subprocess.run(
            argv,
            env={**env, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None
