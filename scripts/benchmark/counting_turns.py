"""The measured process of ``counting``: our function takes turns with and without counting.

Both are in one process, because two processes of the same program differ by some percent.
"""

import contextlib
import importlib
import json
import os
import sys
from pathlib import Path

from scripts.benchmark.consumers import OURS, prepare, time_batches


def main() -> None:
    """Print the wall and CPU seconds of a batch for each round, with the bins of the model's baseline and without."""
    file, rounds, seconds = sys.argv[1:]
    pairs: list[list[tuple[float, float]]] = []
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        handle = prepare(OURS, json.loads(Path(file).read_bytes()))
        model = importlib.import_module("lambda_function").MODEL
        bins = model.bins
        for _ in range(int(rounds)):
            pairs.append([])
            for model.bins in (bins, None):
                handle()  # the interpreter adapts its code to what it runs, once after each change
                pairs[-1].append(time_batches(handle, float(seconds)))
    print(json.dumps(pairs))


if __name__ == "__main__":
    main()
