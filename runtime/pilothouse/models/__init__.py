"""From an MLflow model, wherever it lies, to something that can be served; and the other way, packaging one."""
