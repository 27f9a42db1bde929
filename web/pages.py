"""The pages for people: a form, and the OpenAPI document with a page that shows it. No page needs the internet."""

from pathlib import Path
from typing import Any

import flask_swagger_ui
import msgspec
from flask import Flask, Response, send_from_directory

STATIC = Path(__file__).parent / "static"
DOCS = "/docs"
DOCS_SETTINGS = {"app_name": "Ride durations", "layout": "BaseLayout", "validatorUrl": None}
"""Settings of Swagger UI. Its validator would be a service on the internet."""


def add(app: Flask, document: dict[str, Any]) -> None:
    """Add the pages to the app. They show ``document``."""
    encoded = msgspec.json.encode(document)
    shown = flask_swagger_ui.get_swaggerui_blueprint(DOCS, "/openapi.json", DOCS_SETTINGS)
    app.register_blueprint(shown)

    @app.get("/openapi.json")
    def openapi() -> Response:
        return Response(encoded, content_type="application/json")

    # Without this, the blueprint would redirect to the same address with a slash.
    app.add_url_rule(DOCS, view_func=app.view_functions[f"{shown.name}.show"], endpoint="docs")

    @app.get("/")
    def form() -> Response:
        return send_from_directory(STATIC, "form.html")

    @app.get("/static/<path:name>")
    def static(name: str) -> Response:
        return send_from_directory(STATIC, name)
