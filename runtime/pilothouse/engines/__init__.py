"""Engines turn token ids into token ids. Nothing here knows a wire, a chat template or MLflow."""
