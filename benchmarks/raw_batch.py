"""onnxruntime alone on a full batch of answers, everything bound once: what the slots engine can at best be."""

import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from pilothouse.engines import cpu, slots_graph


class RawBatch:
    """The graph as the slots engine runs it, without rows that come and go."""

    def __init__(self, folder: Path, *, rows: int, context: int) -> None:
        graph = slots_graph.read(folder, "model.onnx")
        options = ort.SessionOptions()
        options.intra_op_num_threads = cpu.threads()
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        self._session = ort.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])
        self._names = [pair for x in graph.layers for pair in ((x.past_key, x.present_key), (x.past_value, x.present_value))]
        self._kv = [np.zeros((rows, graph.kv_heads, context, graph.head_size), np.float32) for _ in self._names]
        self._logits = np.empty((rows, graph.vocabulary), np.float32)
        self._wanted = np.stack([np.arange(rows), np.zeros(rows, np.int64)], 1)
        self._ids = np.full((rows, 1), 1000, np.int64)
        self._step(1)

    def _step(self, length: int) -> None:
        binding = self._session.io_binding()
        binding.bind_cpu_input("input_ids", self._ids)
        binding.bind_cpu_input("attention_mask", np.ones((len(self._ids), length + 1), np.int64))
        binding.bind_cpu_input(slots_graph.WANTED, self._wanted)
        for buffer, (past, present) in zip(self._kv, self._names, strict=True):
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
