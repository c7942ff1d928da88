"""What the pages have their readers type, and which test does it."""

from support.chart import ROOT
from support.reader import blocks

PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("charts/*/README.md"),
        *ROOT.glob("examples/*.md"),
    ]
)
ELSEWHERE = {
    "docs/lifecycle.md": "tests/lifecycle/test_page.py::test_every_command_of_the_page_works",
    "docs/monitoring.md": "tests/monitoring/test_page.py::test_every_command_of_the_page_works",
}
"""Pages whose commands, all but those below, are run by a test of their own."""

OWN_FOLDER = "tests/cluster/test_page.py::test_own_folder_gets_onto_the_cluster_as_the_page_says"

CLUSTER = {
    "helm install phi3 charts/pilothouse": "tests/cluster/test_install.py::test_default_values_serve_on_a_cpu_node",
    "helm install phi3 charts/pilothouse --set model.source=mlflow": "tests/cluster/test_sources.py::test_registered_model_is_fetched_and_checked",
    "helm install phi3 charts/pilothouse --set model.source=imageVolume": OWN_FOLDER,
    "helm install phi3 charts/pilothouse --set model.source=pvc": OWN_FOLDER,
    "helm install pilothouse-operator charts/pilothouse-operator": "tests/operator/test_serving.py::test_apply_becomes_the_first_token",
    "helm rollback phi3": "tests/cluster/test_rollouts.py::test_bad_upgrade_never_takes_the_old_pods_away_and_is_rolled_back",
    "helm test phi3": "tests/cluster/test_install.py::test_contract_core_holds_through_the_service",
    "helm upgrade phi3": "tests/cluster/test_rollouts.py::test_bad_upgrade_never_takes_the_old_pods_away_and_is_rolled_back",
    "kind load docker-image": OWN_FOLDER,
    "kubectl apply -f manifests/volume": OWN_FOLDER,
    "kubectl delete pod phi3-model-copy": OWN_FOLDER,
    "kubectl wait pod/phi3-model-copy": OWN_FOLDER,
    "kubectl apply -f - <<": "tests/operator/test_serving.py::test_apply_becomes_the_first_token",
    "kubectl get languagemodel": "tests/operator/test_refusals.py::test_it_is_scaled_and_shown_as_other_kinds_are",
    "kubectl get pods": "tests/cluster/test_sources.py::test_registered_model_is_fetched_and_checked",
    "kubectl port-forward": "tests/cluster/test_install.py::test_known_answer_arrives_through_port_forward",
    "scripts/build-image --model-only": OWN_FOLDER,
    "scripts/build-image --with-model": "tests/cluster/test_images.py::test_model_is_baked_in_with_its_provenance",
    "tar -C /models/my-phi": OWN_FOLDER,
    "scripts/build-images": "tests/cluster/test_images.py::test_image_is_small_and_not_root",
}
"""What a cluster is needed for: the test of the cluster's and the operator's stage that does it (longest beginning first)."""

NOT_RUN = {
    "az ml ": "needs an Azure subscription: the definitions are loaded by Azure's own library in tests/deploy/test_azureml.py",
    "docker push ": "needs a registry of yours",
    "helm install phi3 charts/pilothouse --set image.repository": "pulls from that registry: rendered below",
    "docker buildx build ": "nothing runs arm64 here: tests/deploy/test_edge.py holds that every wheel of it is there",
    "helm install phi3 charts/pilothouse --set metrics.serviceMonitor": "needs Prometheus' operator: rendered below, and read by tests/charts/test_expressions.py",
    "helm upgrade pilothouse-operator charts/pilothouse-operator -n pilothouse --set webhook": "MLflow delivers to public addresses alone: rendered below",
    "kubectl -n pilothouse create secret": "the Secret of the line below it",
    "kubectl apply -f manifests/kserve": "needs KServe: held to its schemas by tests/charts/test_schemas.py",
    "mlflow run . -e serve": "stays in the foreground: tests/lifecycle/test_page.py::test_the_serve_entry_point_serves",
    "scripts/bench": "measures, for minutes",
    "scripts/test": "that is what runs this",
    "sudo install ": "writes outside of the checkout: tests/deploy/test_edge.py has systemd read the unit",
    "sudo systemctl ": "needs a machine of its own: tests/deploy/test_edge.py has systemd read the unit",
    "sudo uv ": "writes outside of the checkout: tests/wheel does it in a folder of its own",
}
"""What no test runs as it stands, and why."""


def listed(command: str) -> str | None:
    """The longest beginning of `command` that a table has."""
    return max((known for known in (*CLUSTER, *NOT_RUN) if command.startswith(known)), key=len, default=None)


HERE = ("README.md", "docs/operations.md", "docs/deploy.md", "docs/security.md")
"""Pages whose commands, all but those above, are run by test_reading.py, in this order."""

EVERY = [(page, block, command) for page in PAGES for block in blocks(page) for command in block.commands]
