"""Registration of the tasks whenever gymnasium is imported, whether or not this package is.

Gymnasium's plugin entry point did this until gymnasium 1.0 removed it. The `.pth` file that is installed beside the
package calls `install` when Python starts. So that this costs next to nothing, the module imports only `sys` until
gymnasium is imported.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

WATCHED = "gymnasium.envs"


class RegisterAfterImport:
    """Finds gymnasium's environments where they are, and has this package's registered once they are loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != WATCHED:
            return None
        import importlib.util  # here, since it is slow to load

        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_register(module: ModuleType) -> None:
            load(module)
            _register()

        spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Register the tasks as soon as gymnasium is imported, or now where it is already. Safe to call twice."""
    if WATCHED in sys.modules:
        _register()
    elif not any(isinstance(finder, RegisterAfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, RegisterAfterImport())


def _register() -> None:
    from rl4vlm.envs.registration import register_all  # here, since it imports gymnasium

    register_all()
