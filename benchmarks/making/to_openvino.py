"""A checkpoint as OpenVINO's IR, every matrix symmetric int4 in groups of 32: python to_openvino.py CHECKPOINT FOLDER"""

import sys

from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

if __name__ == "__main__":
    form = OVWeightQuantizationConfig(bits=4, sym=True, group_size=32, ratio=1.0, all_layers=True)
    model = OVModelForCausalLM.from_pretrained(sys.argv[1], export=True, compile=False, quantization_config=form)
    model.save_pretrained(sys.argv[2])
