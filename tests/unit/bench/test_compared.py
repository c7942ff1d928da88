"""What is kept of a measurement, and what is made of it: ratios, changes, plots, the page."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import machine
import pytest
from client.answer import Answer
from compared import kept, overview, page, ratios
from compared.kept import Measured
from compared.plots import Plot, drawn
from compared.scenarios import SCENARIOS

PLOT = Plot("a < b", "clients", "tokens/s", ["1", "4"], {"ours": [("1", 30.0), ("4", 90.0)], "theirs": [("1", 20.0)], "nobody": []})
DATES = ("2026-11-28", "2026-11-29")


def answered(number: int, rate: float, tokens: int = 5) -> Answer:
    """An answer of `tokens`, at `rate` a second."""
    events = [(step + 1) / rate for step in range(tokens)]
    return Answer(number, tokens, events=events, end=events[-1], status=200, tokens=tokens, prompt=64)


def runs(rate: float, other: float) -> list[Measured]:
    """Two blocks of S2 at one client: ours at `rate`, llama.cpp's at `other`; and an arm that failed."""
    told = []
    for block in (0, 1):
        told += [
            Measured(
                "1 client", arm, block, block, 0.01, 0.02, failed, [] if failed else [answered(0, speed * (1 + block / 10))], DATES[block]
            )
            for arm, speed, failed in (("pilothouse", rate, ""), ("llama.cpp", other, ""), ("mlserver", 1.0, "status 500"))
        ]
    return told


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=lambda one: one.id)
def test_every_arm_gets_the_same_requests_and_every_block_others(scenario: object) -> None:
    """A point is its seed's alone, and no prompt of one block is in the next."""
    for point in (*scenario.quick, *scenario.full):  # type: ignore[attr-defined]
        first, again, other = (point.make(seed) for seed in (1, 1, 2))
        assert first == again
        assert not {tuple(one.prompt) for one in first} & {tuple(one.prompt) for one in other}


def test_what_is_kept_comes_back_and_is_the_same_bytes(tmp_path: Path) -> None:
    """One line a run, one line a request."""
    kept.save(tmp_path, "S2", [])  # a run that was stopped before its first
    assert kept.load(tmp_path, "S2") == []
    kept.save(tmp_path, "S2", runs(40, 20))
    before = (tmp_path / "S2.jsonl.gz").read_bytes()
    back = kept.load(tmp_path, "S2")
    assert [(run.arm, run.block, run.failed, len(run.answers)) for run in back[:3]] == [
        ("pilothouse", 0, "", 1),
        ("llama.cpp", 0, "", 1),
        ("mlserver", 0, "status 500", 0),
    ]
    assert back[0].answers == runs(40, 20)[0].answers
    kept.save(tmp_path, "S2", back)
    assert (tmp_path / "S2.jsonl.gz").read_bytes() == before
    assert len(gzip.decompress(before).splitlines()) == 6 + 4


def test_a_table_says_when_it_was_measured() -> None:
    """The first day and the last of its runs; nothing for runs that were kept without one."""
    told = runs(40, 20)
    assert page.quality(told).startswith("2026-11-28 and 2026-11-29: 2 blocks, 4 requests; ")
    assert page.quality(told[:3]).startswith("2026-11-28: 1 block, 2 requests; ")
    assert page.quality([replace(run, date="") for run in told]).startswith("2 blocks, 4 requests; ")


def test_a_ratio_is_of_one_block_and_a_failed_run_has_none() -> None:
    """The median over blocks, with a name that stays."""
    found = ratios.values(SCENARIOS["S2"], runs(40, 20))
    assert ratios.all_of(found, ["tokens_per_second"]) == {"1 client / tokens_per_second / pilothouse over llama.cpp": pytest.approx(2.0)}


def test_what_moved_by_more_than_five_percent_is_named() -> None:
    """And whether that is better: more tokens are, more seconds are not."""
    before = {"S2 / tokens_per_second": 2.0, "S2 / ttft_p50": 0.5, "S2 / tpot_p50": 1.0, "S4 / cached": 0.9}
    after = {"S2 / tokens_per_second": 1.8, "S2 / ttft_p50": 0.4, "S2 / tpot_p50": 1.04}
    assert ratios.changes(before, after) == [
        "WORSE: S2 / tokens_per_second: 2.000 -> 1.800 (-10%)",
        "better: S2 / ttft_p50: 0.500 -> 0.400 (-20%)",
        "gone: S4 / cached (was 0.900)",
    ]


def test_a_plot_is_the_same_picture_every_time_and_well_formed() -> None:
    """Arms without points are left out, what could be read as a tag is not."""
    picture = drawn(PLOT)
    assert picture == drawn(PLOT)
    tree = ElementTree.fromstring(picture)
    texts = [one.text for one in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert "a < b" in texts
    assert {"ours", "theirs"} <= set(texts)
    assert "nobody" not in texts


def test_the_page_is_made_of_what_is_kept(tmp_path: Path) -> None:
    """Figures, failures and what was not measured stand in it; nothing is measured."""
    kept.save(tmp_path, "S2", runs(40, 20))
    kept.save_facts(
        tmp_path,
        {"machine": machine.facts(), "command": "scripts/bench", "mode": "quick", "threads": 2, "arms": {}, "missing": {"x": "no"}},
    )
    page.make(tmp_path, tmp_path / "page.md", write_plot=lambda file, plot: None)
    text = (tmp_path / "page.md").read_text()
    assert "| 1 client | llama.cpp | 21 (20 to 22) |" in text
    assert "| 0.500 (0.500 to 0.500) |" in text
    assert "| 1 client | mlserver | failed: status 500 |" in text
    assert "- **x**: not measured: no" in text
    assert "not measured" in text


@pytest.mark.parametrize("folder", overview.folders(), ids=lambda one: one.name)
def test_a_page_in_the_repository_is_made_of_what_is_kept_there(folder: Path, tmp_path: Path) -> None:
    """A figure was not written by hand, and a change of the tables was not forgotten: `scripts/bench page`."""
    made: dict[Path, Plot] = {}
    page.make(folder, tmp_path / "page.md", write_plot=made.__setitem__)
    assert (tmp_path / "page.md").read_text() == page.page_of(folder.name).read_text()
    for file, plot in made.items():
        assert file.read_text() == drawn(plot)


def test_the_overview_in_the_repository_is_made_of_all_that_is_kept(tmp_path: Path) -> None:
    """Every kind of machine has its column."""
    overview.make(out=tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == overview.PAGE.read_text()


def test_the_overview_judges_each_goal_on_each_kind_of_machine(tmp_path: Path) -> None:
    """A goal that only makes sense where OpenVINO computes in bfloat16 has an empty cell elsewhere; one that was not measured says so."""
    for kind, rate in (("amx", 40.0), ("vnni", 30.0)):
        told = runs(rate, 20)
        for run in told:
            run.point, run.arm = "16 clients", run.arm.replace("mlserver", "openvino f32")
        kept.save(tmp_path / kind, "S2", told)
        kept.save_facts(tmp_path / kind, {"machine": {**machine.facts(), "features": [kind]}})
    overview.make(tmp_path, tmp_path / "page.md")
    lines = (tmp_path / "page.md").read_text().splitlines()
    assert "| G10 | tokens/s at 16 clients over llama.cpp's server | at least 1.5 | 2 (2 to 2): yes | 1.5 (1.5 to 1.5): yes |" in lines
    assert "| G10 | the same, told to compute in f32 | at least 1 | not measured |  |" in lines


@pytest.mark.parametrize(
    ("features", "kind"), [({"avx2", "avx512", "vnni", "amx"}, "amx"), ({"avx2", "vnni"}, "vnni"), ({"avx2"}, "avx2"), (set(), "plain")]
)
def test_a_machine_is_of_the_kind_of_its_best_feature(features: set[str], kind: str) -> None:
    """Results of two kinds are not mixed in one folder."""
    assert machine.kind(features) == kind


def test_a_folder_of_another_machine_or_model_stands_beside_its_kind_s(tmp_path: Path) -> None:
    """By the name before the dash; what is no kind's is not shown."""
    for name in ("plain", "vnni-b", "amx-deep", "vnni", "notes"):
        kept.save_facts(tmp_path / name, {})
    assert [folder.name for folder in overview.folders(tmp_path)] == ["amx-deep", "vnni", "vnni-b", "plain"]


@pytest.mark.parametrize("folder", overview.folders(), ids=lambda one: one.name)
def test_the_kept_ratios_are_those_of_the_kept_runs(folder: Path) -> None:
    """What `compare` reads is what the page shows."""
    told = json.loads((folder / "facts.json").read_text())["ratios"]
    found = ratios.all_of(ratios.values(SCENARIOS["S2"], kept.load(folder, "S2")), SCENARIOS["S2"].shown)
    assert {name: round(value, 4) for name, value in found.items()}.items() <= {
        name.removeprefix("S2 / "): value for name, value in told.items() if name.startswith("S2 / ")
    }.items()
