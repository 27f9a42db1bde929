"""AWS clients, and an error of one line that names the wrong setting of the SDK if a client cannot be made.

The SDK reads dozens of variables and a configuration file, and its errors rarely say which of them is wrong.
"""

import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from arns import parse_stream

if TYPE_CHECKING:
    from botocore.config import Config
    from botocore.session import Session
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KINESIS", "AWS_ENDPOINT_URL_S3")
"""Checked with every client, so that a wrong URL stops the cold start: the client for S3 is made later."""
SETTING = re.compile("AWS_|BOTO|REQUESTS_CA_BUNDLE")
"""How the names of the SDK's variables begin, except the variables of proxies."""
FILES = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
PROFILES = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE")
KEPT = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DATA_PATH")
"""Variables that stay set while the wrong setting is searched: without keys, the SDK would ask servers for keys."""
HARMLESS = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}

_session: "Session | None" = None
"""The session of all clients. It keeps the credentials that it has found, and the SDK's descriptions of services."""


class SDKSettingsError(ValueError):
    """A client cannot be made with the SDK's own settings. The message says in one line which setting is wrong."""


def kinesis(stream: str, config: "Config | None" = None) -> "KinesisClient":
    """Return a client for the region in a stream's ARN, or for the SDK's region. Raises SDKSettingsError."""
    found = parse_stream(stream)
    client: KinesisClient = _client("kinesis", config=config, region_name=found.region if found else None)
    return client


def s3(config: "Config | None" = None) -> "S3Client":
    """Return a client for S3. Raises SDKSettingsError."""
    client: S3Client = _client("s3", config=config)
    return client


def wrong_setting(*services: str) -> str | None:
    """Return a line that names a setting with which a client cannot be made; None if all clients can be made."""
    for service in services:
        if (error := _find_error(service, dict(os.environ))) is not None:
            return _explain(service, error)
    return None


def start_session(profile: str | None = None) -> "Session":
    """Make all later clients in a new session, with a profile if one is given, which has found no credentials yet."""
    # Imported here because loading a model from a folder, such as an image's own, needs no client. It is not boto3,
    # because boto3 adds resources and uploads, which need multiprocessing, and makes cold starts longer.
    import botocore.session

    global _session
    _session = botocore.session.Session(profile=profile)
    return _session


def _client(service: str, config: "Config | None" = None, **arguments: Any) -> Any:
    session = _session or start_session()
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, NoRegionError

    try:
        if not session.get_config_variable("user_agent_appid"):
            # Without this, the SDK builds its user agent twice for each request, in a tenth of the request's time.
            config = Config(user_agent=session.user_agent()).merge(config or Config())
        client: Any = cast(Any, session).create_client(service, config=config, **arguments)
        _check(client, None)
    except NoRegionError as error:
        raise SDKSettingsError("AWS_DEFAULT_REGION is not set: name the region") from error
    except (BotoCoreError, ValueError) as error:
        raise SDKSettingsError(_explain(service, error)) from error
    return client


def _check(client: Any, ca_bundle: str | None) -> None:
    """Check settings that the SDK itself would only use when it sends a request. Raises ValueError."""
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


def _find_error(service: str, environment: Mapping[str, str]) -> Exception | None:
    """Return the error that making a service's client raises in an environment; None if the client can be made."""
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
    """Return a line with the setting that causes an error and the SDK's message.

    Each setting is tried alone, so that the settings of later versions of the SDK are found too.
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
        if error := _find_error(service, tried):
            yield name if name in os.environ else value, error
            return
    for name in sorted(filter(SETTING.match, os.environ)):
        if error := _find_error(service, {**tried, name: os.environ[name]}):
            yield name, error
