"""AWS clients, and the one line that says which of the SDK's own settings is wrong if there can be no client.

The SDK reads dozens of variables and a configuration file, and its errors rarely say which of them is wrong.
"""

import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arns import parse_stream

if TYPE_CHECKING:
    from botocore.config import Config
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KINESIS", "AWS_ENDPOINT_URL_S3")
"""The function makes its client for S3 late, and yet a wrong endpoint has to stop its cold start."""
SETTING = re.compile("AWS_|BOTO|REQUESTS_CA_BUNDLE")
"""The beginning of every variable that the SDK reads, but for those of proxies."""
FILES = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
PROFILES = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE")
KEPT = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DATA_PATH")
"""Variables that stay as they are while the wrong setting is searched. Without keys, the SDK asks servers for them."""
HARMLESS = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}


class SDKSettingsError(ValueError):
    """The SDK's own settings give no client. The message says in one line which setting is wrong."""


def kinesis(stream: str, config: "Config | None" = None) -> "KinesisClient":
    """Return a client for a stream: in its region if it is an ARN, else in the SDK's. Raises SDKSettingsError."""
    found = parse_stream(stream)
    client: KinesisClient = _client("kinesis", config=config, region_name=found.region if found else None)
    return client


def s3(config: "Config | None" = None) -> "S3Client":
    """Return a client for S3. Raises SDKSettingsError."""
    client: S3Client = _client("s3", config=config)
    return client


def wrong_setting(*services: str) -> str | None:
    """Return the line that names the setting with which a service gets no client; None if all services get theirs."""
    for service in services:
        if (error := _try(service, dict(os.environ))) is not None:
            return _explain(service, error)
    return None


def _client(service: str, **arguments: Any) -> Any:
    # Imported here: a model in a folder, as in an image that holds its model, needs no client.
    import boto3
    from botocore.exceptions import BotoCoreError, NoRegionError

    try:
        make: Any = boto3.client  # its types know only names that are literals
        client = make(service, **arguments)
        _check(client, None)
    except NoRegionError as error:
        raise SDKSettingsError("AWS_DEFAULT_REGION is not set: name the region") from error
    except (BotoCoreError, ValueError) as error:
        raise SDKSettingsError(_explain(service, error)) from error
    return client


def _check(client: Any, ca_bundle: str | None) -> None:
    """Check settings that the SDK itself would only look at when it sends a request. Raises ValueError."""
    if not re.fullmatch("[A-Za-z0-9-]+", client.meta.region_name):
        raise ValueError(f"Invalid region: {client.meta.region_name!r}")
    for url in filter(None, [client.meta.endpoint_url, *map(os.environ.get, ENDPOINTS)]):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError(f"Invalid endpoint: {url}")
    bundles = filter(None, [ca_bundle, os.environ.get("AWS_CA_BUNDLE"), os.environ.get("REQUESTS_CA_BUNDLE")])
    bundle = next(bundles, os.curdir)
    if client.meta.endpoint_url.startswith("https:") and not Path(bundle).exists():
        raise ValueError(f"there is no file {bundle}")


def _try(service: str, environment: Mapping[str, str]) -> Exception | None:
    """Return the error with which a service gets no client in an environment; None if it gets one."""
    import botocore.session
    from botocore.exceptions import BotoCoreError, NoRegionError

    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        session = botocore.session.Session()
        client: Any = session.create_client(service)
        _check(client, session.get_config_variable("ca_bundle"))
    except NoRegionError:
        return None  # nothing is wrong: a setting is missing
    except (BotoCoreError, ValueError) as error:
        return error
    finally:
        os.environ.clear()
        os.environ.update(before)
    return None


def _explain(service: str, error: Exception) -> str:
    """Return the line for an error: the first setting with which alone a service gets no client, and the SDK's words.

    Trying each setting for itself finds every wrong one, also those of later versions of the SDK.
    """
    found = next(_settings_that_fail(service), ("its own settings", error))
    line = " ".join(f"the SDK cannot use {found[0]}: {found[1]}".split())
    return f"{line} (an endpoint begins with http:// or https://)" if "Invalid endpoint: " in line else line


def _settings_that_fail(service: str) -> Iterator[tuple[str, Exception]]:
    others = {name: value for name, value in os.environ.items() if not SETTING.match(name) or name in KEPT}
    tried = {**others, **HARMLESS, **dict.fromkeys(FILES, os.devnull)}
    shared = [(name, os.environ.get(name, default)) for name, default in FILES.items()]
    # A profile needs the files, and each other variable is tried beside both.
    shared += [(name, os.environ[name]) for name in PROFILES if os.environ.get(name)]
    for name, value in shared:
        tried[name] = value
        if error := _try(service, tried):
            yield name if name in os.environ else value, error
            return
    for name in sorted(filter(SETTING.match, os.environ)):
        if error := _try(service, {**tried, name: os.environ[name]}):
            yield name, error
