"""Flags that several commands have, spelled once."""

import argparse


def store(command: argparse.ArgumentParser) -> None:
    """Where MLflow keeps what the command speaks of."""
    command.add_argument("--tracking-uri", metavar="URI", help="MLflow store (default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db here)")
