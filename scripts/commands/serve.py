"""Run the web service on this machine, as its image does: gunicorn with the settings in gunicorn.conf.py.

POST /predict takes a ride or a list of rides. The page at / has a form, and the page at /docs shows all routes.
Ctrl-C ends the service at once. After SIGTERM it still takes requests for DRAIN_SECONDS (3 by default).
"""

import argparse
import json
import os
import sys

import msgspec

from features import SAMPLE_RIDE
from rides import Ride
from scripts import cli
from scripts.cli import CONSOLE
from scripts.environment import ROOT

EPILOG = """\
These environment variables configure the service: MODEL_LOCATION and the other variables of the model, METRICS_PORT,
DRAIN_SECONDS and LOG_LEVEL (docs/web-service.md). Its log goes to stdout: a line of JSON for each request.

examples:
  serve
  serve --model s3://my-models/1/models/m-0123/artifacts --workers 4
  LOG_LEVEL=WARNING serve --host 0.0.0.0 --port 8080
"""


def main() -> int:
    """Become the server. The exit code is gunicorn's."""
    options = parse_arguments()
    cli.choose_model(os.environ, options.model)
    if options.workers:
        os.environ["WEB_CONCURRENCY"] = str(options.workers)
    host = "127.0.0.1" if options.host == "0.0.0.0" else options.host  # noqa: S104
    place = f"http://{host}:{options.port}"
    CONSOLE.print(f"Web service at {place}, with pages at / and /docs; Ctrl-C ends it. Try it:\n", soft_wrap=True)
    fields = [field for field in msgspec.structs.fields(Ride) if field.required]
    ride = json.dumps({field.encode_name: getattr(SAMPLE_RIDE, field.name) for field in fields})
    command = f"curl -H 'Content-Type: application/json' {place}/predict -d '{ride}'"
    CONSOLE.print(f"{command}\n", markup=False, highlight=False, soft_wrap=True)
    # gunicorn keeps this working folder, because the model's location may be relative to it. So its settings are named.
    config = f"--config={ROOT / 'gunicorn.conf.py'}"
    server = [sys.executable, "-m", "gunicorn", config, f"--bind={options.host}:{options.port}", "--log-level=warning"]
    os.execv(server[0], [*server, "web_service:app"])


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = cli.parser(__doc__, EPILOG)
    cli.add_model(parser)
    host = "the address to listen on; 0.0.0.0 lets other machines connect (default: %(default)s)"
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help=host)
    parser.add_argument(
        "--port", type=cli.port, default=9696, metavar="N", help="the port to listen on (default: %(default)s)"
    )
    workers = "the number of processes that predict (default: WEB_CONCURRENCY, else the number of CPUs)"
    parser.add_argument("--workers", type=cli.count, metavar="N", help=workers)
    return parser.parse_args()
