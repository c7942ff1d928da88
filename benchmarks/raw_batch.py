"""onnxruntime alone on a full batch of answers, everything bound once: what the slots engine can at best be."""

import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from pilothouse.engines import cpu, slots_graph


class RawBatch:
    """The file as it was exported, past and present in one place, without rows that come and go."""

    def __init__(self, folder: Path, *, rows: int, context: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = cpu.threads()
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        self._ids = np.full((rows, 1), 1000, np.int64)
        graph = slots_graph.read(folder)  # for its facts: what runs is the file
        shape = (rows, graph.kv_heads, context, graph.head_size)
        names = [x.name for x in self._session.get_inputs() if x.name.startswith("past_key_values.")]
        self._kv = {name: np.zeros(shape, np.float32) for name in names}
        self._logits = np.empty((rows, 1, graph.vocabulary), np.float32)
        self._step(1)

    def _step(self, length: int) -> None:
        binding = self._session.io_binding()
        binding.bind_cpu_input("input_ids", self._ids)
        binding.bind_cpu_input("attention_mask", np.ones((len(self._ids), length + 1), np.int64))
        for past, buffer in self._kv.items():
            present = past.replace("past_key_values", "present")
            binding.bind_input(past, "cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)
            binding.bind_output(present, "cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)
        binding.bind_output("logits", "cpu", 0, np.float32, self._logits.shape, self._logits.ctypes.data)
        self._session.run_with_iobinding(binding)

    def rate(self, begin: int, steps: int) -> float:
        """Tokens a second of all rows while they grow from `begin` by `steps`."""
        began = time.perf_counter()
        for length in range(begin, begin + steps):
            self._step(length)
        return len(self._ids) * steps / (time.perf_counter() - began)
