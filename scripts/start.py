"""Start a command: ``python -m scripts.start put-rides --rides 100`` is what its launcher does.

The commands import boto3, moto, scikit-learn or MLflow, which takes a second. A signal in this time ends the process at
once: there is nothing to clean up yet.
"""

import os
import sys

from scripts import interrupts


def main() -> int:
    """Run the command that the first argument names, with the arguments after it, and return its exit code."""
    # From now on the name in messages and in the help is the command's.
    del sys.argv[0]
    interrupts.handle_with(interrupts.end_at_once)
    # Imported only now, as they take their time.
    import importlib

    from scripts import cli

    command = importlib.import_module(f"scripts.commands.{sys.argv[0].replace('-', '_')}")
    code = cli.run(command.main, getattr(command, "EXPLAINED", ()))
    if code == interrupts.INTERRUPTED:
        # Everything has ended by now but Python, which would take up to a second and may end by the signal instead.
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
