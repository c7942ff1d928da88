"""The steps of making benchmark models, each run by the interpreter whose environment has its libraries."""
