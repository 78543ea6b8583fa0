"""Scripts are no package: tests load them from their files."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).resolve().parent.parent


def load_script(path: str) -> ModuleType:
    """Load a script, without running its ``main``.

    Args:
        path: relative to the repository, such as "scripts/fetch_weights.py".
    """
    file = REPOSITORY / path
    if str(file.parent) not in sys.path:  # where Python looks first when it runs the script
        sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
