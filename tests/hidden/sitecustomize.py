"""Hide the package HIDDEN_PACKAGE, as if it were not installed, from each Python with this folder on its path."""

import os
import sys


class WithoutPackage:
    """A finder of modules that does not find one package."""

    def __init__(self, finder, package):
        self.finder = finder
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name == self.package or name.startswith(f"{self.package}."):
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):  # find_distributions, invalidate_caches
        return getattr(self.finder, name)


def hide(package):
    """Let imports of a package fail from now on, also if it has been imported."""
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]
    sys.meta_path[:] = [WithoutPackage(finder, package) for finder in sys.meta_path if hasattr(finder, "find_spec")]


if os.environ.get("HIDDEN_PACKAGE"):
    hide(os.environ["HIDDEN_PACKAGE"])
