"""Python imports this at its start if this folder is on PYTHONPATH, as it is in `make test-vllm`.

A torchvision built for CUDA, such as PyPI's, does not import beside a torch for CPUs: its library cannot be loaded, and
then two of its operators are not declared. vLLM needs its Python part alone.
"""

from importlib.metadata import version

import torch

if torch.version.cuda is None and not version("torchvision").endswith("+cpu"):
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")
