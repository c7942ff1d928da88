"""The OpenAPI 3.1 document of all REST routes, as they really are under the limits in force.

Built from the same tables and bounds that requests are judged by; tests put bodies to the schemas and to the parsers and want one verdict.
"""

from typing import Any

from pilothouse.protocols.limits import Limits
from pilothouse.protocols.openapi.answers import ANSWERS
from pilothouse.protocols.openapi.chats import chats
from pilothouse.protocols.openapi.feedback import FEEDBACK
from pilothouse.protocols.openapi.responses import responses
from pilothouse.protocols.openapi.routes import errors, paths
from pilothouse.protocols.openapi.tables import tables
from pilothouse.protocols.openapi.tensors import tensors

ABOUT = """One model over V2 (Open Inference Protocol), OpenAI's API and MLflow's scoring route, all translations of one request.
A field that is not listed is refused by name (400), as is one that this model can't honour. Sizes in bytes count UTF-8, where this document,
as JSON Schema does, counts characters. An unknown model is 404 before the body is judged. Token ids end at the model's vocabulary.
Metrics are on another port."""


def document(limits: Limits, version: str) -> dict[str, Any]:
    """The document; `version` is Pilothouse's."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pilothouse",
            "version": version,
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"key": []}],
        "tags": [{"name": "V2"}, {"name": "OpenAI"}, {"name": "MLflow"}],
        "paths": paths(),
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "Needed where the server was given API keys."}},
            "schemas": chats(limits) | responses(limits) | tensors(limits) | tables(limits) | ANSWERS | FEEDBACK,
            "responses": errors(),
        },
    }
