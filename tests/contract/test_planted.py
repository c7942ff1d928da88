"""What a server writes holds nothing that was said to it: a secret planted everywhere is found nowhere."""

from contextlib import nullcontext
from pathlib import Path

import grpc
import pytest
from mlserver.grpc import dataplane_pb2 as pb

from support import planted
from support.collector import collecting
from support.planted import SECRET
from support.server import Served, served

KEY = "zq-key-93b2-orchard"


def over_grpc(server: Served) -> None:
    """The same over gRPC: as prompt, parameter, model, metadata, and in bytes that are no message."""
    tensor = {"name": "prompt", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [SECRET.encode()]}}
    asked = pb.ModelInferRequest(model_name=server.model, inputs=[tensor])
    asked.parameters["max_tokens"].int64_param = 2
    wrong = pb.ModelInferRequest(model_name=server.model, inputs=[tensor])
    wrong.parameters[SECRET].string_param = SECRET
    unknown = pb.ModelInferRequest(model_name=SECRET, model_version=SECRET, inputs=[tensor])
    with grpc.insecure_channel(server.grpc) as channel:
        for key in (KEY, SECRET):
            metadata = (("authorization", f"Bearer {key}"), ("x-planted", SECRET), ("traceparent", SECRET))
            for data in (asked.SerializeToString(), wrong.SerializeToString(), unknown.SerializeToString(), SECRET.encode()):
                for name in ("ModelInfer", SECRET):
                    right = (key, data, name) == (KEY, asked.SerializeToString(), "ModelInfer")
                    with nullcontext() if right else pytest.raises(grpc.RpcError):
                        channel.unary_unary(f"/inference.GRPCInferenceService/{name}")(data, metadata=metadata, timeout=20)


@pytest.mark.parametrize("scripted", [True, False], ids=["scripted", "onnx"])
def test_a_planted_secret_is_nowhere_in_what_was_written(scripted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts, answers, stop strings, tools, schemas, keys, headers, paths, queries, metadata, broken bodies: over REST and gRPC, at the
    debug level, with traces on, under a plain and a hashed key. Logs, metrics and spans hold neither the secret nor the key."""
    keys = tmp_path / "keys"
    keys.write_text(f"team-a:{KEY}\nteam-b:{SECRET}-other\n")
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-token={SECRET}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        with served(scripted=scripted, api_keys_file=keys, traces="true", log_level="debug") as server:
            refusals = planted.plant(server.rest, server.model, KEY)
            over_grpc(server)
            metrics = planted.scraped(server.metrics)
            collector.wait(20)
            keys.write_text(f"{SECRET}\n")  # a file that makes no sense any more
            planted.plant(server.rest, server.model, KEY)
            log = server.log.read_bytes()
        written = {"log": log, "metrics": metrics, "spans": b"".join(collector.bodies), "refusals": b"".join(refusals)}

    assert {name: (len(text) > 200, text.count(KEY.encode())) for name, text in written.items()} == dict.fromkeys(written, (True, 0))
    assert {name: text.count(SECRET.encode()) for name, text in written.items() if name != "refusals"} == {
        "log": 0,
        "metrics": 0,
        "spans": 0,
    }
    assert written["log"].count(b'"key":"team-a"') > 20
    assert b"line 1 is not name:key" in written["log"]


def test_the_search_would_find_it(tmp_path: Path) -> None:
    """A search that finds nothing has to be one that can."""
    (tmp_path / "log").write_text(f"a {SECRET} b\n")
    (tmp_path / "clean").write_text("a b\n")
    assert planted.hits(sorted(tmp_path.iterdir())) == {"log": 1}
    assert planted.main(str(tmp_path)) == 1
    (tmp_path / "log").unlink()
    assert planted.main(str(tmp_path)) == 0
