"""What is read of the CPU and the container, from texts as the kernel writes them."""

from pathlib import Path

import pytest

from pilothouse.engines import container, cpu

GIB = 1 << 30


def files(**texts: str) -> container.Read:
    """A reader of these files alone; `__` in a name is a slash."""
    return {"/" + name.replace("__", "/").replace("_DOT_", "."): text for name, text in texts.items()}.get


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("flags\t\t: fpu sse avx2 fma\n", {"avx2"}),
        (
            "processor\t: 0\nflags\t\t: avx2 avx512f avx512_vnni amx_int8\n\nprocessor\t: 1\nflags\t\t: avx2\n",
            {"avx2", "avx512", "vnni", "amx"},
        ),
        ("flags : avx2 avx_vnni\n", {"avx2", "vnni"}),
        ("flags : avx2 avx512_bf16\n", {"avx2", "bf16"}),
        ("flags : avx2 amx_bf16\n", {"avx2", "bf16"}),
        ("Features\t: fp asimd asimddp i8mm\n", {"dotprod", "i8mm"}),
        ("vmx flags\t: vnmi\n", set()),
        ("", set()),
    ],
)
def test_features_are_those_of_the_first_cpu(cpuinfo: str, expected: set[str]) -> None:
    """Only the flags that decide something are kept, under short names; both ways of VNNI are one."""
    assert cpu.parse_features(cpuinfo) == expected


def test_the_cpu_has_a_name() -> None:
    """The model name stands beside every figure; ARM kernels give none."""
    assert cpu.parse_model("vendor_id\t: x\nmodel name\t: AMD EPYC 9B14: 96-Core\n") == "AMD EPYC 9B14: 96-Core"
    assert cpu.parse_model("Features\t: asimd\n") == "unknown"


@pytest.mark.parametrize(
    ("features", "engine", "words"),
    [
        ({"avx2", "avx512", "vnni"}, "paged", "int8 dot products (vnni)"),
        ({"avx2", "amx", "vnni"}, "paged", "(amx, vnni)"),
        ({"avx2"}, "slots", "(avx2 only)"),
        (set(), "slots", "no vector features"),
    ],
)
def test_int8_dot_products_decide_the_engine(features: set[str], engine: str, words: str) -> None:
    """With VNNI or AMX the paged engine goes first, without them slots does; the reason names the features."""
    chosen, why = cpu.choose(frozenset(features))
    assert (chosen, words in why) == (engine, True)


@pytest.mark.parametrize(
    ("features", "threads", "rows"),
    [({"vnni"}, 1, 16), ({"vnni"}, 2, 32), ({"vnni"}, 4, 64), ({"amx"}, 64, 64), ({"avx2"}, 2, 8), ({"avx2"}, 4, 16), (set(), 64, 32)],
)
def test_rows_follow_the_features_and_the_threads(features: set[str], threads: int, rows: int) -> None:
    """More rows where they gain throughput, bounded on both sides."""
    assert cpu.rows_for(frozenset(features), threads) == rows


def test_the_kv_memory_leaves_room_for_the_weights() -> None:
    """With known weights, three quarters of what they and 512 MiB leave; without, two fifths; never less than 64 MiB."""
    assert cpu.kv_memory_of(10 * GIB) == 4 * GIB
    assert cpu.kv_memory_of(8 * GIB, 3 * GIB + GIB // 2) == 3 * GIB
    assert cpu.kv_memory_of(1 * GIB, 2 * GIB) == 64 << 20


def test_weights_are_the_bytes_of_the_folder(tmp_path: Path) -> None:
    """All files count, in folders below as well."""
    (tmp_path / "model.onnx").write_bytes(b"123")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "model.onnx.data").write_bytes(b"12345")

    assert cpu.weights_of(tmp_path) == 8


def test_a_quota_of_cgroup_v2_is_read() -> None:
    """cpu.max is quota and period; a part of a CPU is worth a thread."""
    read = files(proc__self__cgroup="0::/\n", sys__fs__cgroup__cpu_DOT_max="150000 100000\n")
    assert (container.cpus(read, 8), container.threads(read, 8)) == (1.5, 2)


def test_a_quota_of_cgroup_v1_is_read() -> None:
    """cfs_quota_us by cfs_period_us, under the controller's own mount; the host's path that is not there is passed over."""
    read = files(
        proc__self__cgroup="4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/x\n",
        sys__fs__cgroup__cpu__cpu_DOT_cfs_quota_us="50000\n",
        sys__fs__cgroup__cpu__cpu_DOT_cfs_period_us="100000\n",
    )
    assert (container.cpus(read, 8), container.threads(read, 8)) == (0.5, 1)


def test_the_tightest_quota_of_all_ancestors_counts() -> None:
    """A pod's limit may stand above the container's own group."""
    read = files(
        proc__self__cgroup="0::/pod/container\n",
        sys__fs__cgroup__pod__container__cpu_DOT_max="max 100000\n",
        sys__fs__cgroup__pod__cpu_DOT_max="300000 100000\n",
        sys__fs__cgroup__cpu_DOT_max="max 100000\n",
    )
    assert container.cpus(read, 8) == 3.0


def test_without_a_quota_the_allowed_cpus_count() -> None:
    """No limit, or no cgroups at all: what the scheduler allows."""
    unlimited = files(
        proc__self__cgroup="2:cpu:/\n",
        sys__fs__cgroup__cpu__cpu_DOT_cfs_quota_us="-1\n",
        sys__fs__cgroup__cpu__cpu_DOT_cfs_period_us="100000\n",
    )
    assert container.cpus(unlimited, 6) == 6.0
    assert container.cpus(files(), 6) == 6.0


def test_memory_of_cgroup_v2_leaves_what_the_limit_leaves() -> None:
    """Idle page cache gives way and counts as left; the machine's own free memory bounds it too."""
    texts = {
        "proc__self__cgroup": "0::/\n",
        "proc__meminfo": f"MemTotal: {64 << 20} kB\nMemAvailable:   {32 << 20} kB\n",
        "sys__fs__cgroup__memory_DOT_max": f"{8 * GIB}\n",
        "sys__fs__cgroup__memory_DOT_current": f"{3 * GIB}\n",
        "sys__fs__cgroup__memory_DOT_stat": f"anon 5\ninactive_file {GIB}\n",
    }
    assert (container.memory(files(**texts)), container.memory_left(files(**texts))) == (8 * GIB, 6 * GIB)

    texts["proc__meminfo"] = f"MemAvailable: {1 << 20} kB\n"
    assert container.memory_left(files(**texts)) == GIB


def test_memory_of_cgroup_v1_without_a_limit_is_the_machine() -> None:
    """v1 writes no limit as a number near 2**63."""
    read = files(
        proc__self__cgroup="4:memory:/\n",
        proc__meminfo="MemAvailable: 1024 kB\n",
        sys__fs__cgroup__memory__memory_DOT_limit_in_bytes="9223372036854771712\n",
        sys__fs__cgroup__memory__memory_DOT_usage_in_bytes="5\n",
    )
    assert (container.memory(read), container.memory_left(read)) == (None, 1 << 20)


def test_memory_of_cgroup_v1_with_a_limit_is_read() -> None:
    """limit_in_bytes less usage, with the idle cache of the whole group."""
    read = files(
        proc__self__cgroup="4:memory:/\n",
        proc__meminfo=f"MemAvailable: {32 << 20} kB\n",
        sys__fs__cgroup__memory__memory_DOT_limit_in_bytes=f"{4 * GIB}\n",
        sys__fs__cgroup__memory__memory_DOT_usage_in_bytes=f"{5 * GIB}\n",
        sys__fs__cgroup__memory__memory_DOT_stat=f"inactive_file 1\ntotal_inactive_file {2 * GIB}\n",
    )
    assert (container.memory(read), container.memory_left(read)) == (4 * GIB, GIB)


def test_this_machine_can_be_read() -> None:
    """The thin readers work where the tests run: some CPU, some memory, a decision."""
    assert container.threads() >= 1
    assert container.memory_left() > 0
    assert container.read("/proc/not-there") is None
    assert cpu.rows() >= 8
    assert cpu.kv_memory() >= 64 << 20
    assert cpu.threads() == container.threads()
    assert cpu.choose(cpu.features())[0] in ("paged", "slots")
    assert cpu.model()
