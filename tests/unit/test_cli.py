"""The command line: light where it only helps, one line where a user can mend something."""

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pilothouse import settings
from pilothouse.cli import COMMANDS, main

HEAVY = ("torch", "transformers", "mlflow", "mlserver", "openvino", "onnxruntime", "onnxruntime_genai", "tokenizers", "grpc")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command: str) -> None:
    """`--help` of every command works in the base install: none of the extras' packages is even looked for."""
    code = (
        f"import sys\nfrom pilothouse.cli import main\ntry:\n    main([{command!r}, '--help'])\nexcept SystemExit as end:\n"
        f"    assert end.code == 0\nprint('heavy:', [n for n in {HEAVY!r} if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_every_setting_is_a_flag_of_serve(capsys: pytest.CaptureFixture[str]) -> None:
    """What can be set in the environment can be said on the command line, with its meaning."""
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    told = capsys.readouterr().out

    assert [name for name in settings.Settings.model_fields if name != "model" and f"--{name.replace('_', '-')}" not in told] == []


def test_wrong_setting_is_one_line_with_the_bound(capsys: pytest.CaptureFixture[str]) -> None:
    """A value out of bounds names the setting, the bound and what was given, and exits with 2 before anything is loaded."""
    assert main(["serve", "--rest-port", "99999"]) == 2
    said = capsys.readouterr().err

    assert said == (
        "pilothouse serve: setting rest_port: Input should be less than or equal to 65535 (given: '99999'). See `pilothouse serve --help`.\n"
    )


def test_two_ports_alike_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Each of the three ports needs its own."""
    assert main(["serve", "--rest-port", "9000", "--grpc-port", "9000"]) == 2
    assert "grpc_port and rest_port are both 9000: give each its own port" in capsys.readouterr().err


def fails(*arguments: str) -> list[str]:
    """The lines that `pilothouse serve ARGUMENTS` ends with, exit code 2."""
    command = [sys.executable, "-m", "pilothouse.cli", "serve", *arguments, "--rest-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    done = subprocess.run([*command, "--log-format", "text"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 2, done.stderr
    return [line for line in done.stderr.splitlines() if "ERROR" in line.upper() or line.startswith("pilothouse serve:")]


def folder_of(tmp_path: Path, kind: str) -> str:
    """A folder that can't be served, each in its own way."""
    folder = tmp_path / kind
    if kind == "missing":
        return str(folder)
    folder.mkdir()
    if kind == "unsupported architecture":
        (folder / "config.json").write_text('{"architectures": ["FalconForCausalLM"], "max_position_embeddings": 2048}')
        (folder / "tokenizer.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"")
    return str(folder)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "no such folder"),
        ("empty", "has no MLmodel, genai_config.json or config.json"),
        ("unsupported architecture", "FalconForCausalLM"),
    ],
)
def test_folder_that_is_no_model_is_one_line(tmp_path: Path, kind: str, words: str) -> None:
    """A bad model ends the process with exit code 2 and exactly one line that says what and what to do."""
    lines = fails(folder_of(tmp_path, kind))

    assert len(lines) == 1
    assert words in lines[0]


def test_smoke_without_a_server_says_how_to_start_one(capsys: pytest.CaptureFixture[str]) -> None:
    """No server there is exit code 2, not a traceback."""
    assert main(["smoke", "http://127.0.0.1:9"]) == 2
    assert "start one with `pilothouse serve`" in capsys.readouterr().err


def test_smoke_waits_until_somebody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    """Who hangs up is asked again for as long as --wait says; who answers is judged at once."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            server.accept()[0].close()
            with server.accept()[0] as second:
                second.recv(4096)
                second.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")

        thread = threading.Thread(target=answer)
        thread.start()
        code = main(["smoke", f"http://127.0.0.1:{server.getsockname()[1]}", "--wait", "60"])
        thread.join(60)

    assert code == 2
    assert "is no Pilothouse server" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["smoke", "chat"])
@pytest.mark.parametrize(("key", "said"), [("", "answers and it wants an API key"), ("wrong-key", "answers and its API key is wrong")])
def test_a_server_that_wants_a_key_is_told_from_no_server(
    command: str, key: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """401 names the variable and the flag; nobody is told to start a server that is there."""
    monkeypatch.setenv("PILOTHOUSE_API_KEY", key)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as one:
                one.recv(4096)
                one.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")

        thread = threading.Thread(target=answer)
        thread.start()
        code = main([command, f"http://127.0.0.1:{server.getsockname()[1]}"])
        thread.join(60)

    assert code == 2
    told = capsys.readouterr().err
    assert said in told
    assert "set PILOTHOUSE_API_KEY, or name a file that holds one with --key-file" in told
