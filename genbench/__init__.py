"""genbench: text-to-image and text-to-3D research methods as plugins on a diffusers core.

The public surface: `generate` (the same run as the command line), the contract in `genbench.kinds`, the pure formulas
in `genbench.solvers`, and `genbench.testing` for plugin authors. Importing the package imports no torch; names are
loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

_EXPORTS = {
    "generate": "genbench.generation",
    "pictures": "genbench.generation",
    "Picture": "genbench.generation",
    "Session": "genbench.generation",
    "Request": "genbench.request",
    "resolve": "genbench.request",
    "build": "genbench.discovery",
    "GenbenchError": "genbench.errors",
    "About": "genbench.kinds",
    "Candidate": "genbench.kinds",
    "Conditioning": "genbench.kinds",
    "Context": "genbench.kinds",
    "Denoise": "genbench.kinds",
    "Level": "genbench.kinds",
    "Model": "genbench.kinds",
    "Prediction": "genbench.kinds",
    "Resources": "genbench.kinds",
    "Schedule": "genbench.kinds",
    "Space": "genbench.kinds",
    "Start": "genbench.kinds",
    "State": "genbench.kinds",
    "Step": "genbench.kinds",
}
__all__ = [*sorted(_EXPORTS), "__version__"]

try:
    __version__ = version("genbench")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'genbench' has no attribute '{name}'")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
