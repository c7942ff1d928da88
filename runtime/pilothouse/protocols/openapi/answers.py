"""Schemas of what the server answers."""

from pilothouse.protocols.failures import MLFLOW_CODES
from pilothouse.protocols.openapi.schemas import COUNT, NULL, TEXT, Schema, fixed, items, maybe, ref, thing

NUMBER: Schema = {"type": "number"}
REASON: Schema = {"enum": ["stop", "length", "tool_calls"]}
COUNTS = {"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT}
ENDING = {"finish_reason": TEXT, **COUNTS, "cached_tokens": COUNT}
SHAPE = items({"type": "integer"})

_TOKEN = {"token": TEXT, "bytes": items({"type": "integer", "minimum": 0, "maximum": 255}), "logprob": NUMBER}
_CALLS = items(ref("ToolCall"), 1)
_HEAD = {"id": TEXT, "created": COUNT, "model": TEXT}
_TENSOR = {"name": TEXT, "datatype": TEXT, "shape": SHAPE}

ANSWERS: dict[str, Schema] = {
    "Usage": thing({**COUNTS, "prompt_tokens_details": thing({"cached_tokens": COUNT})}),
    "ToolCall": thing({"id": TEXT, "type": fixed("function"), "function": thing({"name": TEXT, "arguments": TEXT})}),
    "ChatLogprobs": thing({"content": items(thing({**_TOKEN, "top_logprobs": items(thing(_TOKEN))})), "refusal": NULL}),
    "CompletionLogprobs": thing(
        {
            "tokens": items(TEXT),
            "token_logprobs": items(NUMBER),
            "top_logprobs": items({"type": "object", "additionalProperties": NUMBER}),
            "text_offset": items(COUNT),
        }
    ),
    "ChatCompletion": thing(
        {
            **_HEAD,
            "object": fixed("chat.completion"),
            "choices": items(
                thing(
                    {
                        "index": COUNT,
                        "message": thing({"role": fixed("assistant"), "content": maybe(TEXT), "refusal": NULL}, {"tool_calls": _CALLS}),
                        "logprobs": maybe(ref("ChatLogprobs")),
                        "finish_reason": REASON,
                    }
                ),
                1,
            ),
            "usage": ref("Usage"),
        }
    ),
    "ChatCompletionChunk": thing(
        {
            **_HEAD,
            "object": fixed("chat.completion.chunk"),
            "choices": items(
                thing(
                    {
                        "index": COUNT,
                        "delta": thing(
                            {},
                            {
                                "role": fixed("assistant"),
                                "content": TEXT,
                                "tool_calls": items(
                                    thing(
                                        {
                                            "index": COUNT,
                                            "id": TEXT,
                                            "type": fixed("function"),
                                            "function": thing({"name": TEXT, "arguments": TEXT}),
                                        }
                                    )
                                ),
                            },
                        ),
                        "logprobs": maybe(ref("ChatLogprobs")),
                        "finish_reason": maybe(REASON),
                    }
                ),
                most=1,
            ),
        },
        {"usage": maybe(ref("Usage"))},
    ),
    "Completion": thing(
        {
            **_HEAD,
            "object": fixed("text_completion"),
            "choices": items(
                thing({"index": COUNT, "text": TEXT, "logprobs": maybe(ref("CompletionLogprobs")), "finish_reason": maybe(REASON)})
            ),
        },
        {"usage": maybe(ref("Usage"))},
        description="Whole, or one event of a stream: then with null finish_reason until a choice ends.",
    ),
    "Model": thing({"id": TEXT, "object": fixed("model"), "created": COUNT, "owned_by": TEXT}, {"pilothouse": {"type": "object"}}),
    "ModelList": thing({"object": fixed("list"), "data": items(ref("Model"))}),
    "OpenAIError": thing({"error": thing({"message": TEXT, "type": TEXT, "param": maybe(TEXT), "code": TEXT})}),
    "ServerMetadata": thing({"name": TEXT, "version": TEXT, "extensions": items(TEXT)}),
    "Live": thing({"live": {"type": "boolean"}}, {"error": TEXT}),
    "Ready": thing({"ready": {"type": "boolean"}}, {"error": TEXT, "name": TEXT}),
    "ModelMetadata": thing(
        {"name": TEXT, "platform": TEXT},
        {
            "versions": items(TEXT),
            "inputs": items(thing(_TENSOR, {"parameters": {"type": "object"}})),
            "outputs": items(thing(_TENSOR, {"parameters": {"type": "object"}})),
            "parameters": {"type": "object"},
        },
    ),
    "InferenceResponse": thing(
        {
            "model_name": TEXT,
            "outputs": items(
                thing(
                    {"name": fixed("output"), "datatype": fixed("BYTES"), "shape": items(COUNT, 1, 1)},
                    {"data": items(TEXT), "parameters": thing({}, {"content_type": TEXT, "binary_data_size": COUNT})},
                ),
                1,
                1,
            ),
        },
        {"model_version": TEXT, "id": TEXT, "parameters": thing({}, {**ENDING, "index": COUNT})},
        description="finish_reason is every row's, joined by commas; counts are of all rows. Binary data follow the JSON.",
    ),
    "GenerateResponse": thing({"model_name": TEXT, "model_version": TEXT, "text_output": TEXT}, {"id": TEXT, **ENDING, "index": COUNT}),
    "V2Error": thing({"error": TEXT}),
    "InvocationChat": thing(
        {
            **_HEAD,
            "object": fixed("chat.completion"),
            "choices": items(
                thing(
                    {
                        "index": COUNT,
                        "finish_reason": REASON,
                        "message": thing({"role": fixed("assistant"), "content": maybe(TEXT)}, {"tool_calls": _CALLS}),
                    },
                    {"logprobs": ref("ChatLogprobs")},
                ),
                1,
            ),
            "usage": thing(COUNTS),
        }
    ),
    "InvocationAnswer": {"anyOf": [ref("InvocationChat"), thing({"predictions": items({"anyOf": [TEXT, ref("InvocationChat")]}, 1)})]},
    "MLflowError": thing({"error_code": {"enum": sorted(set(MLFLOW_CODES.values()))}, "message": TEXT}),
}
