"""Pilothouse serves MLflow's Phi-3 models on Kubernetes."""

__version__ = "0.1.0"
