"""Loads the Azure ML definitions of a folder with azure-ai-ml; its last line is what it understood."""

import json
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
from azure.ai.ml import load_model, load_online_deployment, load_online_endpoint  # noqa: E402  # after the filter

folder = Path(sys.argv[1])
endpoint = load_online_endpoint(folder / "endpoint.yaml")
model = load_model(folder / "model.yaml")
deployment = load_online_deployment(folder / "deployment.yaml")
routes = deployment.environment.inference_config
snake = {"livenessRoute": "liveness_route", "readinessRoute": "readiness_route", "scoringRoute": "scoring_route"}
told = {
    "kinds": [type(loaded).__name__ for loaded in (endpoint, model, deployment)],
    "routes": {snake.get(name, name): dict(route) for name, route in routes.items()},
}
print(json.dumps(told))
