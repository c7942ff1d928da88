"""Every manifest is what the API servers of three Kubernetes versions, and the controllers of others, take."""

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.chart import COMBINATIONS, ROOT, Chart
from support.foreign import FOREIGN

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its imports warn of their own age
    import jsonschema
    import kubernetes_validate

VERSIONS = ("1.32", "1.34", "1.36")
KSERVE = sorted((ROOT / "manifests" / "kserve").glob("*.yaml"))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", COMBINATIONS.values(), ids=COMBINATIONS)
def test_manifests_are_valid(chart: Chart, values: dict[str, Any], version: str) -> None:
    """Strictly: an unknown field is an error, in three versions of Kubernetes; and in others' CRDs."""
    for manifest in chart.render(values):
        if manifest["kind"] in FOREIGN:
            jsonschema.validate(manifest, FOREIGN[manifest["kind"]])
        else:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_an_unknown_field_would_be_found(chart: Chart) -> None:
    """The two checks above do refuse: one wrong field in each, and both speak up."""
    deployment = copy.deepcopy(chart.one("Deployment"))
    deployment["spec"]["template"]["spec"]["nodeSelectors"] = {}
    route = copy.deepcopy(chart.one("HTTPRoute", COMBINATIONS["cpu-gateway"]))
    route["spec"]["rules"][0]["timeout"] = "0s"

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[0], strict=True)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(route, FOREIGN["HTTPRoute"])


@pytest.mark.parametrize("path", KSERVE, ids=lambda path: path.stem)
def test_kserve_manifests_are_valid(path: Path) -> None:
    """KServe's own two kinds; that its controller makes of them what we mean is not run here."""
    for manifest in yaml.safe_load_all(path.read_text()):
        jsonschema.validate(manifest, FOREIGN[manifest["kind"]])


def test_kserve_runs_what_the_chart_runs(chart: Chart) -> None:
    """Same image, same security context, same probes; and the grace covers lame duck and drain."""
    runtime, service = (
        yaml.safe_load((ROOT / f"manifests/kserve/{name}.yaml").read_text()) for name in ("servingruntime", "inferenceservice")
    )
    (container,) = runtime["spec"]["containers"]
    (ours,) = chart.pod()["containers"]

    assert container["image"] == ours["image"]
    assert container["resources"] == ours["resources"]
    assert container["securityContext"].items() >= ours["securityContext"].items()
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] == ours[probe]["httpGet"]["path"]
    given = {variable["name"]: variable["value"] for variable in container["env"]}
    stopping = float(given["PILOTHOUSE_LAME_DUCK_SECONDS"]) + float(given["PILOTHOUSE_DRAIN_SECONDS"])
    assert service["spec"]["predictor"]["terminationGracePeriodSeconds"] == stopping + 10
