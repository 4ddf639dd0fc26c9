"""Whatever cannot be a fork starts cold and says why."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from starts import Bench, is_warm

from katuna.launch.warm import imports
from katuna.launch.warm.imports import needs
from katuna.launch.warm.run_script import hiding
from katuna.launch.warm.starter import WarmStarter, differing

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="warm starts are for Linux")


COLD = {
    ("sh", "-c", "true"): "sh is not katuna's own Python",
    ("python",): "no script",
    ("python", "-c", "print(1)"): "interpreter option -c",
    ("python", "-O", "program.py"): "interpreter option -O",
    ("python", "-"): "interpreter option -",
    ("python", "-m", "torch.distributed.run", "program.py"): "torchrun starts processes of its own",
    ("python", "nearby"): "nearby is not found as a Python file",
    ("python", "nearby/json/program.py"): "{folder}/nearby/json has a module random of its own",
}


@pytest.mark.parametrize("argv", COLD, ids=" ".join)
def test_what_a_fork_cannot_be_starts_cold_and_says_why(warm_bench: Bench, tmp_path: Path, argv: tuple[str, ...]) -> None:
    for name in ("program.py", "nearby/__main__.py", "nearby/json/program.py", "nearby/json/random.py"):
        warm_bench.script("", name)
    trial = warm_bench.begin(*argv)
    assert trial.process.how == {"start": "cold", "why": COLD[argv].format(folder=tmp_path)}
    trial.process.stop(0)
    trial.listen()
    assert isinstance(warm_bench.starter, WarmStarter)
    assert not warm_bench.starter._servers, "no server for what is no Python"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("LD_PRELOAD", ""),
            ("MALLOC_ARENA_MAX", "1"),
            ("GLIBC_TUNABLES", ""),
            ("PYTHONHASHSEED", "0"),
            ("PYTHONOPTIMIZE", "1"),
        ),
        *(("OMP_PROC_BIND", "true"), ("KMP_AFFINITY", "none"), ("MKL_CBWR", "AVX2"), ("CUDA_LAUNCH_BLOCKING", "1")),
        *(
            ("TORCH_LOGS", ""),
            ("PYTORCH_CUDA_ALLOC_CONF", ""),
            ("TORCHDYNAMO_VERBOSE", "1"),
            ("HOME", "/nowhere"),
            ("LC_ALL", "C"),
        ),
        *(("TQDM_DISABLE", "1"), ("DNNL_VERBOSE", "1"), ("ONEDNN_DEFAULT_FPMATH_MODE", "BF16"), ("CXX", "clang++")),
    ],
)
def test_environment_that_is_read_at_a_start_starts_cold(warm_bench: Bench, name: str, value: str) -> None:
    trial = warm_bench.run("python", warm_bench.script("print('x')"), env={name: value})
    if name in ("HOME", "LC_ALL"):
        # The server has begun with what is katuna's own to pass on: the next trial is the one that differs.
        assert is_warm(trial)
        trial = warm_bench.run("python", "program.py")
    assert trial.process.how == {"start": "cold", "why": f"{name} is read when Python starts"}
    assert trial.end == (0, 0)


def test_environment_that_calls_can_honour_does_not_start_cold() -> None:
    own = {"HOME": "/h", "LANG": "C"}
    given = ("PYTHONUNBUFFERED", "PYTHONPATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "RANK", "MASTER_ADDR", "NCCL_DEBUG")
    assert differing({**own, **dict.fromkeys((*given, "TORCHELASTIC_RUN_ID", "PET_NNODES"), "1")}, own) == []
    assert differing({"LANG": "C", "LD_AUDIT": ""}, own) == ["HOME", "LD_AUDIT"]


@pytest.mark.parametrize("value", ["0", "4,2", "many", "-1"])
def test_thread_counts_that_are_no_number_start_cold(warm_bench: Bench, value: str) -> None:
    trial = warm_bench.run("python", warm_bench.script("print('x')"), env={"OMP_NUM_THREADS": value})
    assert trial.process.how == {"start": "cold", "why": "OMP_NUM_THREADS is no plain number"}


WRITES = (
    *("os.environ['A'] = '1'", "environ['A'] += '1'", "del os.environ['A']", "os.environ.setdefault('A', '1')"),
    *("os.environ.update({'A': '1'})", "environ.update(A='1')", "os.environ.update(dict(A='1'))", "os.environ |= {'A': '1'}"),
    *("os.putenv('A', '1')", "def f():\n    os.environ['A']: str = '1'", "os.environ.pop('A')"),
)


@pytest.mark.parametrize("text", WRITES)
def test_what_a_program_writes_to_its_environment_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.py").write_text(f"import os\nfrom os import environ\nprint(environ['B'], os.environ.get('C'))\n{text}")
    assert needs(tmp_path / "x.py", []).writes == (("x.py", "A"),)


def test_relative_imports_are_followed(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    (package / "__main__.py").write_text("from . import a\nfrom .inner import b")
    (package / "a.py").write_text("import scipy")
    (package / "inner" / "__init__.py").write_text("from .. import c")
    (package / "inner" / "b.py").write_text("import torch")
    (package / "c.py").write_text("import os\nos.environ['A'] = '1'")
    found = needs(package / "__main__.py", [])
    assert (found.modules, found.writes) == ({"scipy", "torch"}, (("c.py", "A"),))


def test_a_program_that_sets_what_a_library_reads_at_its_start_starts_cold(warm_bench: Bench) -> None:
    warm_bench.script("import os\nos.environ['OMP_NUM_THREADS'] = '1'", "nearby/helper.py")
    calls = {
        "import os\nos.environ['TORCH_LOGS'] = ''\nimport numpy": "program.py sets TORCH_LOGS itself",
        "import helper, numpy": "helper.py sets OMP_NUM_THREADS itself",
        "import os\nos.environ.update(PYTHONHASHSEED='0', MASTER_ADDR='localhost', CUBLAS_WORKSPACE_CONFIG=':16:8')": "",
        "import katuna.launch.warm.starter": "",
    }
    for text, why in calls.items():
        trial = warm_bench.run("python", warm_bench.script(text), env={"PYTHONPATH": "nearby"})
        assert trial.process.how.get("why", "") == why
        assert trial.end == (0, 0)


def test_sources_are_read_again_only_when_they_have_changed(tmp_path: Path) -> None:
    def read() -> int:
        return imports._parsed.cache_info().misses

    (tmp_path / "x.py").write_text("import helper, katuna.metric_line, numpy")
    (tmp_path / "helper.py").write_text("import scipy")
    first = read()
    before = needs(tmp_path / "x.py", []).modules
    assert read() >= first + 2
    again = read()
    assert needs(tmp_path / "x.py", []).modules == before
    assert read() == again
    (tmp_path / "helper.py").write_text("import torch")
    assert before ^ needs(tmp_path / "x.py", []).modules == {"scipy", "torch"}
    assert read() == again + 1
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "helper.py").write_text("import pandas")
    assert "pandas" in needs(tmp_path / "x.py", [str(tmp_path / "later")]).modules


def test_what_is_imported_for_its_effect_is_left_to_the_program(tmp_path: Path) -> None:
    text = "import sklearn\ndef f():\n    from sklearn.experimental import enable_halving_search_cv"
    (tmp_path / "x.py").write_text(text + "\nif TYPE_CHECKING:\n    import torch\nelse:\n    import scipy")
    assert needs(tmp_path / "x.py", []).modules == {"sklearn", "scipy"}


def test_a_module_that_a_library_would_take_for_its_own_starts_cold(warm_bench: Bench) -> None:
    # numpy's server has loaded it to set numbers of threads; nothing in the script's own imports tells.
    warm_bench.script("mine = 1", "nearby/threadpoolctl/__init__.py")
    name = warm_bench.script("import numpy, threadpoolctl\nprint(threadpoolctl.mine)")
    trials = [warm_bench.begin("python", name, env={"PYTHONPATH": "nearby"}) for _ in range(3)]
    for trial in trials:
        assert trial.listen().process.how == {"start": "cold", "why": "it has a module threadpoolctl of its own"}
        assert (trial.end, trial.text) == ((0, 0), "1\n")
    assert is_warm(warm_bench.run("python", warm_bench.script("import numpy", "other.py"))), "the server goes on"


def test_a_folder_without_modules_hides_none(warm_bench: Bench) -> None:
    for place in ("html", "profile", "code", "secrets", "torch", "threadpoolctl"):
        warm_bench.script("", f"{place}/data.txt")
    assert is_warm(warm_bench.run("python", warm_bench.script("import numpy\nimport profile\nprofile.run")))


@pytest.mark.parametrize("entry", ["x.py", "x.pyc", "x.so", "x.abi3.so", "x/__init__.py", "x/__init__.so"])
def test_all_that_python_imports_can_hide_a_module(tmp_path: Path, entry: str) -> None:
    path = tmp_path / entry
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert hiding(tmp_path, {"w", "x"}) == "x"
    assert hiding(tmp_path, {"w"}) == ""


def test_another_interpreter_starts_cold(warm_bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    trial = warm_bench.run(str(tmp_path / "bin" / "python"), warm_bench.script("print('x')"))
    assert trial.process.how["why"].endswith("is not katuna's own Python")
    assert trial.text == "x\n"
