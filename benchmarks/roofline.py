"""What the work of a language-model step needs of a device, and what the device can do."""

from collections.abc import Mapping
from typing import Any, NamedTuple

# Dense bf16 flop/s and bytes/s of memory, from NVIDIA's data sheets of the SXM cards.
PEAKS = {"B200": (2250e12, 8.0e12), "H200": (989e12, 4.8e12), "H100": (989e12, 3.35e12), "A100": (312e12, 2.0e12)}


class Peak(NamedTuple):
    """Flop/s and bytes/s of a device. source: `data sheet`, or `measured` by a matrix product and a copy."""

    flops: float
    bandwidth: float
    source: str


def device_peak(device: Any, dtype: Any) -> Peak:
    """The peak of a torch device for matrix products in `dtype`."""
    import torch

    from llm.plan.duration import measure_device

    if device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        for card, peak in PEAKS.items():
            if card in name:
                return Peak(*peak, "data sheet")
    speed = measure_device(device, dtype, 512)
    return Peak(speed.flops, speed.bandwidth, "measured")


def decoding_bytes(
    setting: Mapping[str, Any], shape: Mapping[str, Any], parameters: int, bytes_each: int, slots: bool = False
) -> int:
    """Bytes read from memory while all completions of a step are sampled: weights, keys and values of each token.

    A prompt's keys and values are read once for its group. The output embedding is the input embedding, of which all
    is read for the logits.

    Args:
        setting: P, G, prompt and most, see `benchmarks.fixed_lengths`; all completions have `most` tokens.
        shape: of the model, as its configuration names it.
        parameters: of the model.
        bytes_each: bytes of a number.
        slots: whether each row reads all the room of its cache, as the compiled step does.
    """
    per_token = 2 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * shape["head_dim"]
    P, G, T = setting["P"], setting["G"], setting["most"]
    own = sum(T if slots else t for t in range(T))
    return bytes_each * (T * (parameters + per_token * P * setting["prompt"]) + per_token * P * G * own)


def forward_flops(setting: Mapping[str, Any], shape: Mapping[str, Any], parameters: int) -> int:
    """Floating-point operations of a pass over all prompts, each once, and completions, `most` tokens each.

    2 for each weight and token in matrix products, the output layer at completion tokens only, and 4 for each pair of
    tokens in attention and channel of its heads. A step makes four of them: the reference, and the policy's forward
    and backward pass, which counts as two.
    """
    P, G, L, T = setting["P"], setting["G"], setting["prompt"], setting["most"]
    head = shape["vocab_size"] * shape["hidden_size"]
    width = shape["num_attention_heads"] * shape["head_dim"] * shape["num_hidden_layers"]
    pairs = P * L * L / 2 + P * G * T * (L + T / 2)
    return int(2 * (parameters - head) * (P * L + P * G * T) + 2 * head * P * G * T + 4 * width * pairs)
