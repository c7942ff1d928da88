"""Others' descriptions of the wires we speak, as OpenAPI documents that a fuzzer can read."""

from typing import Any

from openai.types import Completion
from openai.types import completion_create_params as of_completion
from openai.types.chat import ChatCompletion
from openai.types.chat import completion_create_params as of_chat
from openai.types.responses import Response
from openai.types.responses import response_create_params as of_response
from openai.types.shared import ErrorObject
from pydantic import TypeAdapter

from pilothouse.protocols import openai, responses

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {"type": "object", "required": list(required), "properties": required | (optional or {})}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _document(title: str, paths: dict[str, Any], schemas: dict[str, Schema]) -> dict[str, Any]:
    return {"openapi": "3.1.0", "info": {"title": title, "version": "2"}, "paths": paths, "components": {"schemas": schemas}}


def open_inference(model: str, version: str) -> dict[str, Any]:
    """The Open Inference Protocol's REST side, from its specification (kserve/open-inference-protocol, inference_rest.md).

    Its own OpenAPI file can't be run: its path parameters are not templates, it has the versioned paths alone, and no error but 400.
    """
    error = {"description": "Refused.", "content": _json(_object({"error": TEXT}))}
    refusals = {str(status): error for status in (400, 404, 405, 408, 413, 415, 429, 431, 500, 503)}
    parameters: Schema = {"type": "object"}
    tensor = {"name": TEXT, "datatype": TEXT, "shape": _list(WHOLE)}
    data: Schema = {"type": "array", "items": {"anyOf": [{"type": ["number", "string", "boolean"]}, {"type": "array"}]}}
    about = {"parameters": parameters}
    schemas = {
        "Server": _object({"name": TEXT, "version": TEXT, "extensions": _list(TEXT)}),
        "Model": _object(
            {"name": TEXT, "platform": TEXT},
            {"versions": _list(TEXT), "inputs": _list(_object(tensor)), "outputs": _list(_object(tensor))},
        ),
        "Asked": _object(
            {"inputs": _list(_object({**tensor, "data": data}, about))},
            {"id": TEXT, "outputs": _list(_object({"name": TEXT}, about)), **about},
        ),
        "Told": _object(
            {"model_name": TEXT, "outputs": _list(_object({**tensor, "data": data}, about))}, {"model_version": TEXT, "id": TEXT, **about}
        ),
    }

    def get(schema: str | None) -> dict[str, Any]:
        good: dict[str, Any] = {"description": "Yes."}
        if schema:
            good["content"] = _json({"$ref": f"#/components/schemas/{schema}"})
        return {"get": {"responses": {"200": good, **refusals}}}

    paths = {"/v2/": get("Server"), "/v2": get("Server"), "/v2/health/live": get(None), "/v2/health/ready": get(None)}
    for base, names in (
        ("/v2/models/{model}", {"model": model}),
        ("/v2/models/{model}/versions/{version}", {"model": model, "version": version}),
    ):
        named = [{"name": n, "in": "path", "required": True, "schema": {"type": "string", "enum": [v]}} for n, v in names.items()]
        good = {"description": "Answered.", "content": _json({"$ref": "#/components/schemas/Told"})}
        asked = {"required": True, "content": _json({"$ref": "#/components/schemas/Asked"})}
        paths[base] = {"parameters": named, **get("Model")}
        paths[f"{base}/ready"] = {"parameters": named, **get(None)}
        paths[f"{base}/infer"] = {"parameters": named, "post": {"requestBody": asked, "responses": {"200": good, **refusals}}}
    return _document("Open Inference Protocol", paths, schemas)


def openai_shapes(model: str) -> dict[str, Any]:
    """Chats, completions and responses as OpenAI's own client types them, bodies and answers, unary."""
    schemas: dict[str, Schema] = {}

    def add(name: str, schema: Schema) -> Schema:
        schemas[name] = schema
        return {"$ref": f"#/components/schemas/{name}"}

    def adapted(kind: Any, name: str) -> Schema:
        """Its parts have `name` before theirs: two kinds may have parts of one name."""
        schema = dict(TypeAdapter(kind).json_schema(ref_template=f"#/components/schemas/{name}.{{model}}"))
        schemas.update({f"{name}.{part}": about for part, about in schema.pop("$defs", {}).items()})
        return schema

    error = _object({"error": add("ErrorObject", adapted(ErrorObject, "ErrorObject"))})
    refusals = {
        str(s): {"description": "Refused.", "content": _json(error)} for s in (400, 404, 405, 408, 413, 415, 429, 431, 500, 503, 504)
    }
    paths = {}
    for path, asked, told, ignored in (
        ("/v1/chat/completions", of_chat.CompletionCreateParamsNonStreaming, ChatCompletion, openai.IGNORED),
        ("/v1/completions", of_completion.CompletionCreateParamsNonStreaming, Completion, openai.IGNORED),
        ("/v1/responses", of_response.ResponseCreateParamsNonStreaming, Response, responses.IGNORED),
    ):
        name = told.__name__
        body = adapted(asked, f"{name}Body")
        body["properties"] = {n: s for n, s in body["properties"].items() if n not in ignored}  # taken unread, whatever they hold
        body["properties"]["model"] = {"enum": [model]}
        good = {"description": "Answered.", "content": _json(add(name, adapted(told, name)))}
        request = {"required": True, "content": _json(add(f"{name}Body", body))}
        paths[path] = {"post": {"requestBody": request, "responses": {"200": good, **refusals}}}
    return _document("OpenAI", paths, schemas)
