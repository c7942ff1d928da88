"""What `helm install` prints: lines to paste for what was installed, and nothing that does not apply."""

from support.chart import Chart


def test_notes_hold_port_forward_and_curl_for_this_release(chart: Chart) -> None:
    """Names and namespace are this release's own."""
    notes = chart.notes()

    assert "kubectl -n models port-forward service/phi3-pilothouse 8080 8081" in notes
    assert "curl localhost:8080/v1/chat/completions -H 'Content-Type: application/json'" in notes
    assert "helm -n models test phi3 --logs" in notes
    assert "Authorization" not in notes
    assert "No API keys" in notes


def test_notes_ask_for_a_key_where_keys_are_set(chart: Chart) -> None:
    """With keys every curl line carries one, and `helm test` says what it lacks."""
    notes = chart.notes({"apiKeys": {"existingSecret": "keys"}})

    assert notes.count('-H "Authorization: Bearer $KEY"') == 3
    assert "name its entry in apiKeys.testKey" in notes
    assert "helm -n models test" not in notes
    assert "No API keys" not in notes


def test_notes_speak_tls_where_the_server_does(chart: Chart) -> None:
    """Every curl line goes to the certificate's name, with the CA and, where one is wanted, a client's certificate."""
    notes = chart.notes({"tls": {"existingSecret": "pair", "clientCaKey": "clients.crt"}})

    assert notes.count("curl --connect-to ::localhost: --cacert ca.crt --cert client.crt --key client.key") == 3
    assert notes.count("https://phi3-pilothouse.models.svc:8080/v") == 3
    assert "get secret pair -o go-template='{{index .data \"ca.crt\" | base64decode}}' > ca.crt" in notes
    assert "name a Secret with one that your client CA has signed in tls.testSecret" in notes


def test_notes_name_the_model(chart: Chart) -> None:
    """A name that was given is in the lines; one that wasn't is asked for."""
    assert "MODEL=phi3-chat" in chart.notes({"model": {"name": "phi3-chat"}})
    assert "MODEL=$(curl" in chart.notes()


def test_notes_warn_of_a_rollout_that_has_downtime(chart: Chart) -> None:
    """Without a spare GPU the old pod goes first, and a real GPU must answer."""
    gpu, cpu = chart.notes({"profile": "gpu"}), chart.notes()

    assert "an upgrade is not free of downtime" in gpu
    assert "only after a real GPU has answered" in gpu
    assert "downtime" not in cpu
    assert "GPU" not in cpu


def test_notes_say_where_the_model_comes_from(chart: Chart) -> None:
    """In the words of the values."""
    mlflow = {"model": {"source": "mlflow", "mlflow": {"uri": "models:/phi3@champion", "trackingUri": "http://mlflow:5000"}}}

    assert "serves models:/phi3@champion of http://mlflow:5000" in chart.notes(mlflow)
    assert "serves the model in the claim models" in chart.notes({"model": {"source": "pvc", "pvc": {"claimName": "models"}}})
    assert "the embedded pocket model" in chart.notes()


def test_notes_say_where_it_is_reached_from_outside(chart: Chart) -> None:
    """Hosts of the Ingress and of the routes."""
    assert "From outside: https://a.example.com" in chart.notes(
        {"ingress": {"enabled": True, "hosts": ["a.example.com"], "tls": [{"hosts": ["a.example.com"]}]}}
    )
    assert "through the gateway: b.example.com" in chart.notes(
        {"gateway": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["b.example.com"]}}
    )
