"""Every setting of the server, in one place: `PILOTHOUSE_<NAME>` in the environment, or a flag of `pilothouse serve`.

Under a plain `mlserver start` the same names are read from `parameters.extra` of model-settings.json.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from pilothouse.errors import StartError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class Settings(BaseSettings):
    """Declared once, refused by name when unknown or out of bounds."""

    model_config = SettingsConfigDict(env_prefix="PILOTHOUSE_", extra="forbid", frozen=True, validate_default=True)

    # What is served
    model: str | None = Field(
        None, description="Folder, models:/name@alias, models:/name/version or runs:/id/path. Empty: the pocket model in the wheel."
    )
    model_name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
        description="The model's one name on every protocol. Empty: the logged model's own name, or the folder's.",
    )
    tracking_uri: str | None = Field(
        None, description="MLflow store that models:/ and runs:/ are resolved in. Empty: MLFLOW_TRACKING_URI, else the local SQLite store."
    )
    allow_model_code: bool = Field(
        False, description="Run the Python that a generic pyfunc was logged with. Never needed for the two Phi-3 models."
    )
    verify_digests: bool = Field(True, description="Check the model's files against its manifest before anything of it is read.")

    # Where it listens
    host: str = Field("127.0.0.1", description="Address to listen on; images set 0.0.0.0.")
    rest_port: int = Field(8080, ge=0, le=65535, description="V2 REST, OpenAI and MLflow on one port. 0: any free one.")
    grpc_port: int = Field(8081, ge=0, le=65535, description="V2 gRPC. 0: any free one.")
    metrics_port: int = Field(8082, ge=0, le=65535, description="Prometheus metrics. 0: any free one.")
    page: bool = Field(True, description="Serve the chat page at /.")
    repository_api: bool = Field(False, description="Admin switch: MLServer's model repository routes (load, unload, index).")

    # Who may ask
    api_keys_file: Path | None = Field(
        None,
        description="File of API keys, one a line as name:key or name:sha256=<hex>, then the name's limits, if any: at-once=N "
        "requests-per-minute=N tokens-per-minute=N. Read again when it changes. Empty: no keys.",
    )
    metrics_token_file: Path | None = Field(None, description="File with the bearer token that /metrics asks for. Empty: open.")

    tls_certificate: Path | None = Field(
        None,
        description="PEM file with the server's certificate and its chain: all three ports then speak TLS. Read again when it changes. Empty: no TLS.",
    )
    tls_key: Path | None = Field(None, description="PEM file with the certificate's key, without a password.")
    tls_client_ca: Path | None = Field(
        None,
        description="PEM file of CAs: REST and gRPC then want a client's certificate from one of them. Probes go to metrics_port, which wants none.",
    )

    # Engine
    engine: Literal["auto", "paged", "slots", "genai", "transformers"] = Field(
        "auto", description="What computes the tokens; auto reads the model and the CPU."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Promised device: with cuda, a server that no GPU answers ends with the reason."
    )
    threads: int = Field(0, ge=0, le=1024, description="Compute threads. 0: the CPU quota of the container.")
    rows: int = Field(0, ge=0, le=1024, description="Most requests computed at once. 0: by the CPU's features and the memory.")
    context_tokens: int = Field(
        0, ge=0, description="Most tokens of prompt and answer together. 0: the model's window, or what the memory holds."
    )
    kv_memory_bytes: int = Field(0, ge=0, description="Memory for keys and values, in bytes. 0: a share of what the container has left.")
    kv_precision: Literal["fp16", "u8"] = Field(
        "fp16", description="Paged engine's keys and values; u8 holds twice the chats, and is not exact across chunks."
    )
    step_tokens: int = Field(0, ge=0, le=65536, description="Most tokens of one step, prompts and answers together. 0: by the engine.")
    prefix_cache: bool = Field(True, description="Share the computed beginning of prompts between requests.")
    prefix_isolation: bool = Field(True, description="Never share computed prompts between API keys.")
    speculation: bool = Field(True, description="Guess repeated text ahead and check it in one step, while the batch has room.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Number format of the Transformers engine and of the paged one, where bfloat16 makes prompts faster on CPUs with AMX,"
        " answers slower, and is not exact across batches.",
    )
    attention: Literal["auto", "sdpa", "eager"] = Field(
        "auto", description="Transformers engine's attention; auto batches requests, the library's own computes one at a time."
    )

    # Limits: over them a request is refused by name
    max_body_bytes: int = Field(4 * MIB, ge=KIB, description="Body, as sent and as inflated, in bytes (413).")
    max_bodies_bytes: int = Field(
        256 * MIB, ge=MIB, description="Bodies of all requests that are being read and answered, together, in bytes (429 beyond)."
    )
    max_headers: int = Field(100, ge=10, description="Number of request headers (431).")
    max_messages: int = Field(1024, ge=1, description="Messages of one chat.")
    max_content_bytes: int = Field(2 * MIB, ge=1, description="All text of one request, in bytes of UTF-8.")
    max_rows: int = Field(64, ge=1, description="Prompts of one V2 or MLflow request.")
    max_n: int = Field(8, ge=1, le=128, description="Choices of one request (n).")
    max_stop: int = Field(16, ge=1, description="Stop strings of one request.")
    max_stop_bytes: int = Field(256, ge=1, description="Length of one stop string, in bytes.")
    max_tools: int = Field(128, ge=1, description="Tools of one request.")
    max_schema_bytes: int = Field(64 * KIB, ge=2, description="A guide's JSON schema, in bytes.")
    max_schema_depth: int = Field(32, ge=1, description="Nesting of a guide's JSON schema.")
    max_top_logprobs: int = Field(20, ge=0, le=20, description="Likeliest tokens listed beside each.")
    max_tokens: int = Field(0, ge=0, description="Most tokens of one answer, whatever was asked. 0: the context window.")
    queue: int = Field(
        64,
        ge=0,
        description="Requests that may wait (429 with Retry-After beyond); one API key may hold three for each place that is free.",
    )
    queue_tokens: int = Field(131072, ge=0, description="Prompt tokens of all requests that wait (429 beyond). 0: any number.")
    queue_seconds: float = Field(60.0, gt=0, description="Longest wait in the queue (429 beyond).")
    request_seconds: float = Field(600.0, gt=0, description="Longest time of one request (504 or an error event beyond).")
    upload_seconds: float = Field(30.0, gt=0, description="Longest time to send a request's headers and body (408 beyond).")
    keep_alive_seconds: float = Field(
        75.0, gt=0, description="How long an idle connection is kept; longer than common proxies keep theirs."
    )
    grpc_message_bytes: int = Field(4 * MIB, ge=KIB, description="One gRPC message, in bytes.")

    # Stopping
    lame_duck_seconds: float = Field(2.0, ge=0, description="After SIGTERM: how long readiness is off while requests are still taken.")
    drain_seconds: float = Field(30.0, ge=0, description="Then: how long running requests may take to finish.")
    stall_seconds: float = Field(60.0, gt=0, description="An engine that makes no progress for this long with work to do fails liveness.")

    # Logs and traces
    log_format: Literal["auto", "json", "text"] = Field("auto", description="auto: text on a terminal, JSON elsewhere.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    traces: bool = Field(
        False, description="Send OpenTelemetry spans of requests, without content, where OTEL_EXPORTER_OTLP_ENDPOINT says (extra traces)."
    )
    trace_experiment: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="With traces: send them to this experiment of the MLflow server in tracking_uri, and take feedback. Made if missing.",
    )
    trace_sample: float = Field(
        1.0, gt=0, le=1, description="Share of the requests that are traced. 1: as OTEL_TRACES_SAMPLER says, else all."
    )
    trace_content: bool = Field(False, description="Put what is asked and answered into MLflow's traces, cut at 16384 characters each.")

    @model_validator(mode="after")
    def _tls_is_whole(self) -> "Settings":
        if (self.tls_certificate is None) != (self.tls_key is None):
            there, missing = ("tls_certificate", "tls_key") if self.tls_key is None else ("tls_key", "tls_certificate")
            raise ValueError(f"{there} is set and {missing} is not: TLS needs both")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca is set and tls_certificate is not: clients show certificates only over TLS; set both")
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> "Settings":
        named = [
            (n, p) for n, p in (("rest_port", self.rest_port), ("grpc_port", self.grpc_port), ("metrics_port", self.metrics_port)) if p
        ]
        for i, (name, port) in enumerate(named):
            for other, same in named[:i]:
                if port == same:
                    raise ValueError(f"{name} and {other} are both {port}: give each its own port")
        return self


def load(**values: Any) -> Settings:
    """Settings from the environment, with `values` before it. Raises `StartError` that names each wrong one and the bound it broke."""
    try:
        return Settings(**values)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False):
            name = ".".join(str(p) for p in problem["loc"]) or "settings"
            given = f" (given: {problem['input']!r})" if problem["loc"] and not isinstance(problem["input"], SecretStr) else ""
            lines.append(f"setting {name}: {problem['msg'].removeprefix('Value error, ')}{given}")
        raise StartError("; ".join(lines) + ". See `pilothouse serve --help`.") from None
