# Sourced. Where the cluster's tools are, and which cluster is ours. Expects ROOT, or finds it.
ROOT=${ROOT:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
KIND_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/pilothouse/kind
TOOLS=$KIND_CACHE/bin
WORK=$KIND_CACHE/work
# Debian's docker before any other client: it matches the engine and builds with BuildKit. The tools made here match the cluster.
export PATH=$TOOLS:/usr/bin:$PATH:/usr/local/go/bin DOCKER_BUILDKIT=1
CLUSTER=pilothouse
CONTEXT=kind-$CLUSTER
# A file of our own: the user's ~/.kube/config is neither read nor written.
export KUBECONFIG=$KIND_CACHE/kubeconfig
