"""The description of the API: what the framework cannot see is added to what it can."""

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from agent.api.problems import ProblemDocument

ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "Any error, as a problem document (RFC 9457).",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
    }
}
"""What every route may answer beside its own."""

_SECURITY = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key of the service, or a token of an issuer it trusts. On loopback, a service without "
        "either asks for nothing.",
    }
}


def operation_id(route: APIRoute) -> str:
    """The route's name, which is unique; generated clients call their methods so."""
    return route.name


def describe(app: FastAPI, bodies: Iterable[type[BaseModel]]) -> None:
    """Add errors, credentials, and the bodies that routes read by themselves."""
    generate = app.openapi
    shapes = tuple(bodies)

    def openapi() -> dict[str, Any]:
        description = generate()
        _add_schemas(description["components"]["schemas"], shapes)
        description["components"]["securitySchemes"] = _SECURITY
        description["security"] = [{"bearer": []}, {}]
        for operations in description["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)  # The framework's own shape, which nothing here answers.
        return description

    app.openapi = openapi  # type: ignore[method-assign]


def _add_schemas(schemas: dict[str, Any], bodies: Iterable[type[BaseModel]]) -> None:
    _, extra = models_json_schema(
        [*((shape, "validation") for shape in bodies), (ProblemDocument, "serialization")],
        ref_template="#/components/schemas/{model}",
    )
    for name, schema in extra["$defs"].items():
        schemas.setdefault(name, schema)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
