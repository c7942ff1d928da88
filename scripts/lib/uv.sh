# Sourced. Sets ROOT and UV: the uv on PATH, else one in a cache outside the checkout, installed with pip.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/pilothouse
UV=$(command -v uv || true)
[ -n "$UV" ] || for UV in "$HOME/.local/bin/uv" "$CACHE/uv/bin/uv" ""; do [ -x "$UV" ] && break; done
if [ -z "$UV" ]; then
  echo "installing uv into $CACHE/uv"
  python3 -m venv "$CACHE/uv" || { echo "python3 with venv is needed (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
  "$CACHE/uv/bin/pip" install --quiet --disable-pip-version-check 'uv>=0.5'
  UV=$CACHE/uv/bin/uv
fi
