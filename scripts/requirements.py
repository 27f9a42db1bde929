"""Print the locked packages of some of the Pipfile's categories as requirements for pip, hashes included.

It stands on the standard library alone: the Dockerfile runs it before anything is installed.
"""

import sys
from collections.abc import Sequence

from scripts.environment import locked, requirement


def requirements(categories: Sequence[str]) -> list[str]:
    """Return a line for each locked package. Raises SystemExit where the lock has no such category."""
    return [requirement(name, package) for name, package in locked(list(categories)).items()]


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
