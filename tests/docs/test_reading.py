"""README, and the pages on where it runs and how it is kept safe, do as they say: every command of them, in their order, as a reader would."""

import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import trustme

from docs.typed import HERE, listed
from pilothouse.models import packaging, pocket, pocket_chat
from pilothouse.models.packaging import Target
from pilothouse.models.pocket.answers import SPAIN
from support.chart import ROOT
from support.reader import Reader, blocks, checkout
from support.tracking import free_port, server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.transformers,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

STAYS = re.compile(r"(\S+=\S+ )*(scripts/serve|pilothouse serve)( |$)")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Has the two folders that the pages speak of, certificates, and somebody's tracking server with a champion in it."""
    home = tmp_path_factory.mktemp("reader")
    ports = {port: str(free_port()) for port in ("5000", "8080", "8081", "8082")}
    instead = {f":{port}": f":{free}" for port, free in ports.items()}
    chat = str(pocket_chat.make(home / "hf"))
    onnx = ("/models/.../cpu-int4-rtn-block-32-acc-level-4", "/models/phi-3-mini-onnx")
    published = "/models/Phi-3-mini-4k-instruct-onnx/cpu_and_mobile/cpu-int4-rtn-block-32-acc-level-4"
    instead |= {published: str(pocket.FOLDER), **dict.fromkeys(onnx, str(pocket.FOLDER)), "/models/Phi-3-mini-4k-instruct ": f"{chat} "}
    instead |= {"phi3.example": "127.0.0.1"}
    variables = {f"PILOTHOUSE_{name}_PORT": ports[port] for name, port in (("REST", "8080"), ("GRPC", "8081"), ("METRICS", "8082"))}
    folder = checkout(home)
    ca = trustme.CA()
    for issued, name in ((ca.issue_cert("127.0.0.1"), "server"), (ca.issue_cert("me@phi3.example"), "me")):
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        for index, pem in enumerate(issued.cert_chain_pems):
            pem.write_to_path(str(folder / f"{name}.pem"), append=index > 0)
    for name in ("ca", "clients"):
        ca.cert_pem.write_to_path(str(folder / f"{name}.pem"))
    (home / "tracking").mkdir()
    with server(home / "tracking") as tracking:
        packaging.package_onnx(target=Target(tracking_uri=tracking.url, register="phi3", alias="champion"))
        instead[":5000"] = f":{tracking.url.rpartition(':')[2]}"
        yield Reader(folder, instead, variables)


def test_every_command_of_the_pages_works(reader: Reader) -> None:
    """But for those that need a cluster, or that docs/typed.py gives a reason for. A server stays until the next one takes its ports."""
    told: dict[str, str] = {}
    with ExitStack() as stays:
        for page in HERE:
            for block in blocks(ROOT / page):
                commands = [command for command in block.commands if listed(command) is None and command not in told]
                for command in commands:
                    if STAYS.match(command):
                        stays.close()
                        ready = "https://127.0.0.1:8082" if "TLS" in command else "http://127.0.0.1:8080"
                        stays.enter_context(reader.serving(command, "--insecure", f"{reader.meant(ready)}/v2/health/ready"))
                        told[command] = ""
                    else:
                        told[command] = reader.type(command)
    (answer,) = [text for command, text in told.items() if "/v1/chat/completions" in command]
    assert SPAIN[1] in answer
    (size,) = [text for command, text in told.items() if "pilothouse size" in command]
    assert "--set settings.rows=16" in size
    assert [text for command, text in told.items() if "package" in command and "registered phi3" not in text] == []
    assert (reader.folder / "manifests/azureml/model/MLmodel").is_file()
    assert len([command for command in told if STAYS.match(command)]) >= 5
