"""Compiling the C++ ops with the machine's own compiler, once, into a cache folder of the user."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["BuildError", "build", "cache_folder"]

_SOURCES = Path(__file__).parent / "src"
_FLAGS = (
    "-O3",
    "-march=native",
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-fvisibility=hidden",
    "-pthread",
    # errno and floating-point traps stop loops from being vectorised; nobody reads them
    "-fno-math-errno",
    "-fno-trapping-math",
    # scratch memory changes its type on the way
    "-fno-strict-aliasing",
    "-w",
)
_TIMEOUT_S = 120


class BuildError(Exception):
    """Why there is no library."""


def cache_folder() -> Path:
    """``$SGL_CACHE_DIR``, else ``$XDG_CACHE_HOME/sgl-lang``, else ``~/.cache/sgl-lang``."""
    own = os.environ.get("SGL_CACHE_DIR")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sgl-lang"


def build() -> Path:
    """The compiled library of this version for this processor; raises `BuildError`."""
    if sys.platform not in ("linux", "darwin"):
        raise BuildError(f"no native ops on {sys.platform}")
    compiler = next((found for name in _compilers() if (found := shutil.which(name))), None)
    if compiler is None:
        raise BuildError("no C++ compiler found (set CXX, or install g++ or clang++)")
    folder = cache_folder() / "native"
    target = folder / f"ops-{_fingerprint(compiler)}.so"
    if not target.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _compile(compiler, target)
        except OSError as error:
            raise BuildError(str(error)) from None
    return target


def _compilers() -> list[str]:
    chosen = os.environ.get("CXX")
    return [chosen] if chosen else ["g++", "clang++", "c++"]


def _fingerprint(compiler: str) -> str:
    """Changes with the sources, the flags, the compiler and the processor."""
    digest = hashlib.sha256(" ".join(_FLAGS).encode())
    for source in sorted(_SOURCES.iterdir()):
        digest.update(source.name.encode() + source.read_bytes())
    stat = Path(compiler).resolve().stat()
    digest.update(f"{compiler} {stat.st_size} {stat.st_mtime_ns} {_processor()}".encode())
    return digest.hexdigest()[:24]


def _processor() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return " ".join(
        line for line in lines[:40] if line.startswith(("vendor_id", "model", "cpu family", "flags"))
    )


def _compile(compiler: str, target: Path) -> None:
    """Into a file of its own first, so that two processes at once do no harm."""
    handle, name = tempfile.mkstemp(suffix=".so", dir=target.parent)
    os.close(handle)
    command = [compiler, *_FLAGS, str(_SOURCES / "api.cpp"), "-o", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        if done.returncode:
            raise BuildError(f"{compiler} failed: {done.stderr.strip()[:2000]}")
        os.replace(name, target)
    except subprocess.TimeoutExpired:
        raise BuildError(f"{compiler} took over {_TIMEOUT_S} s") from None
    finally:
        Path(name).unlink(missing_ok=True)
