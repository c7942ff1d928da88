"""Two operators of the exported file that OpenVINO's own reader copies or does not know, read over the file's mapped memory instead.

Its reader copies every 4-bit weight once (1.8 GB for 3.8 billion parameters), and refuses embeddings that share the head's weights.
"""

from typing import Any

import numpy as np
import openvino as ov
import openvino.opset15 as ops
from openvino.frontend.onnx import ConversionExtension

DOMAIN = "com.microsoft"


class Unreadable(ValueError):
    """A form of the operator that is left to OpenVINO's own reader."""


def embedding() -> ConversionExtension:
    """GatherBlockQuantized. The rows are gathered first and only they are unpacked."""

    def convert(node: Any) -> list[Any]:
        if node.get_attribute("bits", 4) != 4 or node.get_attribute("gather_axis", 0) != 0 or node.get_input_size() > 3:
            raise Unreadable("only rows of 4 bits without zero points")
        data, ids, scales = (node.get_input(i) for i in range(3))
        first, last, sixteen = ops.constant(np.int64(0)), ops.constant(np.int64(-1)), ops.constant(np.float32(16))
        packed = ops.convert(ops.gather(data, ids, first), "f32")  # [batch, length, width / 2], two numbers a byte, the low half first
        high = ops.floor(ops.divide(packed, sixteen))
        low = ops.subtract(packed, ops.multiply(high, sixteen))
        numbers = ops.concat([ops.unsqueeze(low, last), ops.unsqueeze(high, last)], -1)
        blocks = ops.reshape(numbers, ops.constant(np.array([0, 0, -1, node.get_attribute("block_size", 32)])), True)
        centred = ops.subtract(blocks, ops.constant(np.float32(8)))
        scaled = ops.multiply(centred, ops.unsqueeze(ops.gather(scales, ids, first), last))
        return _outputs(ops.reshape(scaled, ops.constant(np.array([0, 0, -1])), True))

    return ConversionExtension("GatherBlockQuantized", DOMAIN, convert)


def product(kept: list[Any]) -> ConversionExtension:
    """MatMulNBits, in the pattern that the plugin compresses. `kept` gets what must outlive the compiled model: it owns the mapped memory."""

    def convert(node: Any) -> list[Any]:
        bits = node.get_attribute("bits", 4)
        if bits not in (4, 8) or node.get_input_size() > 3:
            raise Unreadable("only 4 or 8 bits without zero points, order or bias")
        x, source, scales = (node.get_input(i) for i in range(3))
        constant = source.get_node()
        if constant.get_type_name() != "Constant":
            raise Unreadable("only constant weights")
        data = constant.data  # [outputs, blocks, bytes], a view
        outputs, blocks, width = data.shape
        if blocks * width * 8 // bits != node.get_attribute("K", 0):
            raise Unreadable("only whole blocks")
        if bits == 4:
            tensor = ov.Tensor(data.reshape(-1), ov.Shape([outputs, blocks, 2 * width]), ov.Type.u4)
            kept.append((constant, data, tensor))
            weights, zero = ops.constant(tensor, shared_memory=True), ops.constant(np.array([8], np.uint8), ov.Type.u4)
        else:
            weights, zero = constant, ops.constant(np.array([128], np.uint8))
        centred = ops.subtract(ops.convert(weights, "f32"), ops.convert(zero, "f32"))
        scaled = ops.multiply(centred, ops.reshape(scales, ops.constant(np.array([outputs, blocks, 1])), False))
        return _outputs(ops.matmul(x, ops.reshape(scaled, ops.constant(np.array([0, -1], np.int32)), True), False, True))

    return ConversionExtension("MatMulNBits", DOMAIN, convert)


def _outputs(node: Any) -> list[Any]:
    return list(node.outputs())
