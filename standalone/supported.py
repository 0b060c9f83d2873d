"""`python standalone/supported.py`: whether Thoraq can be set up with this Python on this machine, in one line.

`make setup` runs it before anything is installed, so it imports nothing but the standard library, and runs on Pythons
that Thoraq does not run on.
"""

from __future__ import annotations

import platform
import sys
import sysconfig

OLDEST, NEWEST = (3, 11), (3, 13)
#: What wheels there are for, of everything in locks/all.lock; tests/locks/test_platforms.py resolves them.
MACHINES = {"Linux": ("x86_64", "aarch64"), "Darwin": ("arm64",)}
#: The oldest C library of the wheels, by Linux's machine.
GLIBC = {"x86_64": (2, 28), "aarch64": (2, 35)}
NEEDS = "Thoraq needs Python 3.11, 3.12 or 3.13"
HELP = (
    "install one of them (apt-get install python3.13, brew install python@3.13, uv python install 3.13), "
    "and set PYTHON=/path/to/it if it is not on PATH"
)


def fault(version: tuple[int, ...], system: str, machine: str, libc: tuple[str, str] = ("glibc", "2.36")) -> str | None:
    """Return what keeps Thoraq from this Python and machine, and what helps; None when nothing does."""
    if machine not in MACHINES.get(system, ()):
        return (
            f"Thoraq runs on Linux (x86-64, arm64) and macOS (arm64); for {system} on {machine} TensorFlow and others "
            "have no wheels: use such a machine, or a virtual machine or container of one."
        )
    if system == "Linux" and (libc[0] != "glibc" or _numbers(libc[1]) < GLIBC[machine]):
        oldest = {"x86_64": "Debian 10, Ubuntu 20.04, RHEL 8", "aarch64": "Debian 12, Ubuntu 22.04"}[machine]
        return (
            f"Thoraq needs a Linux with glibc {_dotted(GLIBC[machine])} or newer, which TensorFlow's and OpenVINO's "
            f"wheels are made for: {oldest} or newer, and not Alpine."
        )
    if version[:2] > NEWEST:
        return f"{NEEDS}: TensorFlow has no wheel for {_dotted(version)} yet; {HELP}."
    if version[:2] < OLDEST:
        return f"{NEEDS}, and this is {_dotted(version)}; {HELP}."
    return None


def main() -> str | None:
    """Return the fault of this Python and machine."""
    if platform.python_implementation() != "CPython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return f"Thoraq needs the ordinary CPython, which TensorFlow's wheels are made for; {HELP}."
    return fault(sys.version_info[:3], platform.system(), platform.machine(), platform.libc_ver())


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version[:2])


if __name__ == "__main__":
    sys.exit(main())
