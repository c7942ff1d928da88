"""What an engine says of a model it can't carry, so that whoever chooses goes on to the next one with the reason in hand."""

from pilothouse.errors import ModelError


class GraphRefused(ModelError):
    """`engine` can't compute this graph exactly; `reason` names the part of it. Another engine may."""

    def __init__(self, engine: str, reason: str) -> None:
        super().__init__(f"the {engine} engine can't carry this model: {reason}")
        self.engine = engine
        self.reason = reason
