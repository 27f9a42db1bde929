"""Start a command: ``python -m scripts.start put-rides --rides 100`` is what its launcher does.

The commands import boto3, moto, scikit-learn or MLflow, which takes a second. A signal in this time ends the process at
once: there is nothing to clean up yet.
"""

import os
import sys

from scripts import interrupts


def main() -> int:
    """Run the command that the first argument names, with the arguments after it, and return its exit code."""
    # From now on, messages and the help use the command's name.
    del sys.argv[0]
    interrupts.handle_with(interrupts.end_at_once)
    # Imported after the handler is set, because these imports take long.
    import importlib

    from scripts import cli

    command = importlib.import_module(f"scripts.commands.{sys.argv[0].replace('-', '_')}")
    code = cli.run(command.main, getattr(command, "EXPLAINED", ()))
    if code == interrupts.INTERRUPTED:
        # Only Python itself is left to end. It would take up to a second, and could end by the signal instead.
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
