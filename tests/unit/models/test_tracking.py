"""Which MLflow store is meant, and how it is shown."""

from pathlib import Path

import pytest

from pilothouse.models import tracking


def test_the_store_is_the_given_one_then_the_environment_s_then_a_file_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative SQLite file is that of the current folder, whatever folder it is read in later."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.address() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert tracking.address() == "http://mlflow:5000"
    assert tracking.address("sqlite:///deep/store.db") == f"sqlite:///{tmp_path}/deep/store.db"
    assert tracking.address("sqlite:////var/store.db") == "sqlite:////var/store.db"


def test_only_a_sqlite_store_has_a_file() -> None:
    """Any other store is a server's."""
    assert tracking.database("sqlite:////var/store.db") == Path("/var/store.db")
    assert tracking.database("postgresql://mlflow@db/mlflow") is None


def test_an_address_is_shown_without_its_password() -> None:
    """It ends up in logs and on screens."""
    assert tracking.shown("https://user:secret@mlflow.example:5000/path") == "https://mlflow.example:5000/path"
    assert tracking.shown("sqlite:////tmp/mlflow.db") == "sqlite:////tmp/mlflow.db"


def test_a_library_s_error_is_its_first_line_without_passwords() -> None:
    """For the operator; never for a client."""
    assert tracking.said(ValueError("GET http://u:p@h/x failed\nTraceback")) == "GET http://h/x failed"
    assert tracking.said(ValueError("")) == "ValueError"
    pool = "HTTPConnectionPool(host='mlflow', port=5000): Max retries exceeded with url: /api/get?name=x"
    cause = """NameResolutionError("HTTPConnection(host='mlflow', port=5000): Failed to resolve 'mlflow' ([Errno -2] Name or service not known)")"""
    assert (
        tracking.said(ValueError(f"failed with exception {pool} (Caused by {cause})"))
        == "Failed to resolve 'mlflow' ([Errno -2] Name or service not known)"
    )
