"""Timing an engine on this machine."""

from pilothouse.engines.scripted import ScriptedStep
from pilothouse.engines.timing import measure


def test_timing_gives_a_figure_for_every_number_of_rows_it_has_places_for() -> None:
    """An engine of four rows is timed at one and at four, not at sixteen, and is left empty."""
    engine = ScriptedStep(40, rows=4, context=64, tokens_per_step=16)

    timing = measure(engine, 40, seconds=0.0)

    assert sorted(timing.decode) == [1, 4]
    assert timing.prefill > 0
    assert timing.best == timing.decode[4]
    assert engine.usage() == 0.0
