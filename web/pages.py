"""The pages for people: a form, and the OpenAPI document with a page that shows it. No page needs the internet."""

import html
from pathlib import Path
from typing import Any

import flask_swagger_ui
import msgspec
from flask import Flask, Response, send_from_directory

STATIC = Path(__file__).parent / "static"
SWAGGER = Path(flask_swagger_ui.__file__).parent / "dist"
POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"
"""Browsers load nothing from other servers, and run no inline script. Swagger UI's CSS contains images (``data:``)."""


def add(app: Flask, document: dict[str, Any], *, field: str, unit: str, wants_time: bool) -> None:
    """Add the pages to the app.

    Args:
        app: the app.
        document: the OpenAPI document, which one page shows.
        field: the name of the predicted value.
        unit: the unit of the predicted value; empty if it is not known.
        wants_time: whether the form asks for the pickup's time.
    """
    encoded = msgspec.json.encode(document)
    texts = {"{value}": field.replace("_", " "), "{unit}": unit, "{time}": "" if wants_time else "hidden"}
    pages = {"form": _fill(STATIC / "form.html", texts), "docs": _fill(STATIC / "docs.html", {})}

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


def _fill(path: Path, texts: dict[str, str]) -> bytes:
    """Return a page with texts in the place of their keys."""
    page = path.read_text()
    for key, text in texts.items():
        page = page.replace(key, html.escape(text))
    return page.encode()


def _answer(page: bytes) -> Response:
    return Response(page, content_type="text/html; charset=utf-8", headers={"Content-Security-Policy": POLICY})
