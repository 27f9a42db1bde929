"""The pages for people: a form, and the OpenAPI document with a page that shows it. No page needs the internet."""

from pathlib import Path
from typing import Any

import flask_swagger_ui
import msgspec
from flask import Flask, Response, send_from_directory

STATIC = Path(__file__).parent / "static"
SWAGGER = Path(flask_swagger_ui.__file__).parent / "dist"
POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"
"""Browsers load nothing from other servers, and run no inline script. Swagger UI's CSS contains images (``data:``)."""


def add(app: Flask, document: dict[str, Any]) -> None:
    """Add the pages to the app. They show ``document``."""
    encoded = msgspec.json.encode(document)
    pages = {name: (STATIC / f"{name}.html").read_bytes() for name in ("form", "docs")}

    @app.get("/openapi.json")
    def openapi() -> Response:
        return Response(encoded, content_type="application/json")

    @app.get("/")
    def form() -> Response:
        return _answer(pages["form"])

    @app.get("/docs", strict_slashes=False)
    def docs() -> Response:
        return _answer(pages["docs"])

    @app.get("/static/<path:name>")
    def static(name: str) -> Response:
        return send_from_directory(STATIC, name)

    @app.get("/static/swagger/<path:name>")
    def swagger(name: str) -> Response:
        return send_from_directory(SWAGGER, name)


def _answer(page: bytes) -> Response:
    return Response(page, content_type="text/html; charset=utf-8", headers={"Content-Security-Policy": POLICY})
