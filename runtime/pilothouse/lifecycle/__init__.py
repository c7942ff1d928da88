"""The registry's side of the cycle: what is tracked, evaluated, promoted and rolled back. MLflow's own entities and calls throughout."""
