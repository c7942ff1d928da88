"""The process around the runtime: MLServer behind a thin seam, with our routes, limits, keys, health and drain."""
