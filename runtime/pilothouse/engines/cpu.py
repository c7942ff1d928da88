"""What this CPU is good at, and the defaults that follow: which engine, how many rows, how many threads, how much memory for the KV.

Machines differ by more than engines do: with int8 dot products batching gains 4 to 5 times, without them it ends near 2.
"""

from pathlib import Path

from pilothouse.engines import container

MIB = 1 << 20

FLAGS = {
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx512_vnni": "vnni",
    "avx_vnni": "vnni",
    "avx512_bf16": "bf16",
    "amx_int8": "amx",
    "amx_bf16": "bf16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
}
INT8 = frozenset({"vnni", "amx"})  # int8 dot products that the paged engine's kernels use


def parse_features(cpuinfo: str) -> frozenset[str]:
    """The features that matter here, from /proc/cpuinfo: avx2, avx512, vnni, bf16, amx; dotprod and i8mm on ARM. Those of the first CPU."""
    for line in cpuinfo.splitlines():
        name, _, words = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(FLAGS[word] for word in words.split() if word in FLAGS)
    return frozenset()


def parse_model(cpuinfo: str) -> str:
    """The CPU's name, "unknown" where it has none."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "unknown"


def features() -> frozenset[str]:
    """This machine's."""
    return parse_features(container.read("/proc/cpuinfo") or "")


def model() -> str:
    """This machine's CPU by name, to stand beside every figure."""
    return parse_model(container.read("/proc/cpuinfo") or "")


def choose(features: frozenset[str]) -> tuple[str, str]:
    """The engine to try first for an ONNX model, and why in words."""
    found = sorted(features & INT8)
    if found:
        return "paged", f"this CPU has int8 dot products ({', '.join(found)}), which OpenVINO's kernels use best"
    has = f"{', '.join(sorted(features))} only" if features else "no vector features that are known here"
    return "slots", f"this CPU has no int8 dot products ({has}), where onnxruntime's kernels are faster"


def threads() -> int:
    """Compute threads: the container's CPU quota, rounded up."""
    return container.threads()


def rows() -> int:
    """Most rows at once."""
    return rows_for(features(), threads())


def rows_for(features: frozenset[str], threads: int) -> int:
    """With int8 dot products 32 rows give half as many tokens a second again as 16, on two cores; without them a batch is full at 8."""
    least, most, each = (16, 64, 16) if features & INT8 else (8, 32, 4)
    return min(most, max(least, each * threads))


def kv_memory(weights: int = 0) -> int:
    """Bytes for keys and values: a share of what the container has left, before the model is loaded."""
    return kv_memory_of(container.memory_left(), weights)


def kv_memory_of(left: int, weights: int = 0) -> int:
    """Three quarters of what stays of `left` bytes after the weights (files' bytes) and 512 MiB for everything else; unknown weights: 2/5 of all."""
    spare = (left - weights - 512 * MIB) * 3 // 4 if weights else left * 2 // 5
    return max(64 * MIB, spare)


def limit_for(kv: int, weights: int) -> int:
    """The memory, in bytes, of which `kv_memory_of` leaves at least `kv` for keys and values: its inverse."""
    return weights + 512 * MIB + -(-kv * 4 // 3)


def weights_of(folder: Path) -> int:
    """Bytes of a model folder's files: about what its weights take once they are loaded."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
