"""The stand-in for the CUDA libraries: it satisfies the loader, and a call to it cannot pass in silence."""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

KIT = Path(__file__).resolve().parents[2] / "tools" / "vllm_cpu"

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="the stand-in is a Linux x86-64 library"
)


@pytest.fixture(scope="module")
def stubs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("detinf_stub_library", KIT / "stub_library.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def extension() -> Path:
    """Return a shared library that links to others, by version: one of Python's own."""
    import _ctypes

    return Path(_ctypes.__file__)


def test_library_written_and_read_back_defines_each_symbol_once(stubs: ModuleType, tmp_path: Path) -> None:
    symbols = {stubs.Symbol(f"cublasThing{index}", "libcublas.so.13") for index in range(500)}
    symbols |= {stubs.Symbol("ncclInit"), stubs.Symbol("cudnnCreate", "libcudnn.so.9")}
    path = tmp_path / stubs.STUB_NAME
    path.write_bytes(stubs.stub_library(symbols))

    library = ctypes.CDLL(str(path))

    for symbol in symbols:
        assert getattr(library, symbol.name)
    with pytest.raises(AttributeError):
        _ = library.cublasOther


def test_symbol_called_ends_the_process_with_a_message(stubs: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / stubs.STUB_NAME
    path.write_bytes(stubs.stub_library([stubs.Symbol("cublasCreate_v2", "libcublas.so.13")]))
    program = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).cublasCreate_v2(None); print('went on')"

    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False, capture_output=True)

    assert done.returncode == 127
    assert done.stderr == stubs.MESSAGE
    assert done.stdout == b""


def test_library_read_tells_what_it_needs_with_versions(stubs: ModuleType) -> None:
    library = stubs.read_library(extension())

    assert "libc.so.6" in library.needed
    assert "PyInit__ctypes" in library.defined
    undefined = {symbol.name: symbol.version for symbol in library.undefined}
    assert {version for name, version in undefined.items() if name.startswith("Py")} == {""}
    assert any(version.startswith("GLIBC_") for version in undefined.values())


def test_missing_names_absent_libraries_and_cuda_symbols_alone(stubs: ModuleType) -> None:
    torch = stubs.Library(
        needed=frozenset({"libc.so.6", "libcudart.so.13", "libnccl.so.2"}),
        defined=frozenset({"torch_start"}),
        undefined=frozenset(
            {
                stubs.Symbol("malloc", "GLIBC_2.2.5"),
                stubs.Symbol("cudaMalloc", "libcudart.so.13"),
                stubs.Symbol("ncclInit"),
            }
        ),
    )
    runtime = stubs.Library(frozenset({"libc.so.6"}), frozenset({"cudaMalloc"}), frozenset())

    absent, symbols = stubs.missing({"libtorch.so": torch, "libcudart.so.13": runtime})

    assert absent == {"libnccl.so.2"}
    assert symbols == {stubs.Symbol("ncclInit")}


def test_file_that_is_no_library_is_refused_by_name(stubs: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "libtext.so"
    path.write_text("no library, but long enough to be looked at")

    with pytest.raises(ValueError, match=r"libtext\.so is no 64-bit ELF file"):
        stubs.read_library(path)
