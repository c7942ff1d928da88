"""The network policy at work, where the cluster's network enforces policies at all; ours does not, and then this says so."""

import pytest

from support.cluster import Release

REACH = "import socket, sys; s = socket.socket(); s.settimeout(5); print('reached' if s.connect_ex((sys.argv[1], int(sys.argv[2]))) == 0 else 'closed')"


def test_nothing_gets_out_of_the_pod_but_what_is_listed(release: Release) -> None:
    """The API server is the nearest thing that a pod may not reach; its own port it may."""
    release.install()

    def reach(host: str, port: int) -> str:
        return release.space.kubectl("exec", f"deployment/{release.full}", "--", "python3", "-c", REACH, host, str(port)).strip()

    assert reach("127.0.0.1", 8080) == "reached"
    address = release.space.get("service", "kubernetes", "--namespace", "default")["spec"]["clusterIP"]
    if reach(address, 443) == "reached":
        pytest.skip("not run: this cluster's network accepts network policies and does not enforce them")
    assert reach(address, 443) == "closed"
