"""`python -m benchmarks.gpu.measure PART DEVICE FOLDER`: measure a part, and print each result as a line of JSON."""

import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.fixed_lengths import FixedSteps, build, chats
from benchmarks.gpu.settings import (
    BFLOAT16_FACTOR,
    EOS_NEVER,
    SIZES,
    TOLERANCE,
    ZERO_TOLERANCE,
)
from benchmarks.roofline import decoding_bytes, device_peak, forward_flops
from benchmarks.scaling.meter import memory_mb

HOME = Path(__file__).resolve().parents[2]
SHALLOW = 4  # layers of the model of which gradients are compared


class Place:
    """The device of a part, and the folders of its models: `full`, and `shallow` with a few layers."""

    def __init__(self, device: str, folder: str) -> None:
        self.device, self.sizes = torch.device(device), SIZES[device]
        self.cuda = device == "cuda"
        self.dtype = "bfloat16" if self.cuda else "float32"
        self.full, self.shallow = f"{folder}/full", f"{folder}/shallow"

    def now(self) -> float:
        """Seconds on the clock, after pending work on the GPU."""
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def overrides(self, **more: Any) -> list[str]:
        """The overrides of a step on this device."""
        keys = {"model.device": self.device.type, "model.dtype": self.dtype, "micro_batch": self.sizes.micro_batch}
        return [f"{key}={value}" for key, value in {**keys, **more}.items()]


def emit(quantity: str, value: float | str | None, unit: str = "", check: str = "") -> None:
    print(json.dumps({"quantity": quantity, "value": value, "unit": unit, "check": check}), flush=True)


def verdict(good: bool, expectation: str) -> str:
    return "ok" if good else f"must be {expectation}"


# --- parts -----------------------------------------------------------------------------------------------------


def measure_model(place: Place) -> None:
    shape = place.sizes.shape
    build(place.full, shape, place.dtype, place.device.type, context=2048)
    layers = min(SHALLOW, shape["num_hidden_layers"])
    build(place.shallow, shape | {"num_hidden_layers": layers}, "float32", place.device.type, context=2048)
    peak = device_peak(place.device, getattr(torch, place.dtype))
    emit(f"peak of matrix products, {place.dtype}", peak.flops / 1e12, "Tflop/s", "")
    emit("peak of memory", peak.bandwidth / 1e9, "GB/s", "")
    emit("peaks are from", peak.source)


def measure_tests(place: Place) -> None:
    marked = sorted(
        path for path in (HOME / "tests").rglob("test_*.py") if "pytest.mark.gpu" in path.read_text("utf-8")
    )
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *map(str, marked)]
    child = subprocess.run(command, cwd=HOME, capture_output=True, text=True)
    last = (child.stdout.strip() or child.stderr.strip()).splitlines()[-1].strip("= ")
    emit(f"tests in {len(marked)} files", last, check=verdict(child.returncode == 0, "no failure"))


def measure_packed(place: Place) -> None:
    """Compare in both types; on the CPU bfloat16 products are emulated, but rounded in the same way."""
    torch.backends.cuda.matmul.allow_tf32 = False
    names = ("log-probabilities", "gradient")
    exact: list[torch.Tensor] = []
    for dtype in ("float32", "bfloat16"):
        results = {}
        for path in ("packed", "whole rows"):
            start = place.now()
            results[path] = logp_and_gradient(place, dtype, path)
            emit(f"{path}, {dtype}: seconds of a forward and backward pass", place.now() - start, "s")
        for name, packed, rows in zip(names, *results.values(), strict=True):
            error, limit = relative_difference(packed, rows), TOLERANCE[dtype]
            check = verdict(error <= limit, f"<= {limit:g}")
            emit(f"{name}, {dtype}: packed against whole rows", error, "of the largest", check)
        exact = exact or results["whole rows"]
    for name, packed, rows, wanted in zip(names, *results.values(), exact, strict=True):
        ratio = relative_norm(packed, wanted) / relative_norm(rows, wanted)
        check = verdict(ratio <= BFLOAT16_FACTOR, f"<= {BFLOAT16_FACTOR:g}")
        emit(f"{name}, bfloat16: distance from float32, packed over whole rows", ratio, "", check)


def logp_and_gradient(place: Place, dtype: str, path: str) -> list[torch.Tensor]:
    """Log-probabilities of ragged completions [n], and the gradient of a sum of them for the embedding, flat."""
    from transformers import AutoModelForCausalLM

    from llm.inference import paths
    from llm.inference.head import body_of
    from llm.inference.logprobs import completion_logp
    from llm.inference.prompts import Prompts

    model: Any = AutoModelForCausalLM.from_pretrained(place.shallow, dtype=getattr(torch, dtype)).eval()
    torch.nn.Module.to(model, place.device)
    paths._PATHS[body_of(model)] = paths.PACKED if path == "packed" else paths.WHOLE_ROWS
    generator = torch.Generator().manual_seed(0)
    L, T, vocabulary = place.sizes.setting["prompt"], place.sizes.setting["most"], place.sizes.shape["vocab_size"]
    ids, tokens = (torch.randint(vocabulary, size, generator=generator) for size in ((2, L), (8, T)))
    prompt_mask = torch.arange(L) >= torch.tensor([[0], [L // 3]])
    mask = torch.arange(T) < torch.linspace(1, T, 8).long().unsqueeze(-1)
    weight = torch.randn(mask.shape, generator=generator)[mask].to(place.device)
    ids, prompt_mask, tokens, mask = (t.to(place.device) for t in (ids, prompt_mask, tokens, mask))
    logp = completion_logp(model, Prompts(ids, prompt_mask), tokens, mask)[mask]
    (logp * weight).sum().backward()
    return [logp.detach().float().cpu(), model.get_input_embeddings().weight.grad.float().flatten().cpu()]


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def relative_norm(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def measure_decoding(place: Place, speed_up: str | None = None) -> None:
    """Time sampling; speed_up: a key of the model that makes it faster, such as compile_decoding."""
    from core.sequence import inverse_cdf
    from launch.cli.compose import compose_typed
    from llm.inference.prompts import encode_chats
    from llm.inference.sampling import sample
    from llm.models import load_models

    overrides = [*place.overrides(), f"model.name_or_path={place.full}"]
    overrides += [f"model.{speed_up}=true"] if speed_up else []
    config: Any = compose_typed("llm", overrides)[0]
    setting = place.sizes.setting
    models = load_models(config.model)
    prompts = encode_chats(models.tokenizer, chats(setting))
    prompts = type(prompts)(*(t.to(place.device) for t in prompts))
    rows = setting["P"] * setting["G"]
    uniforms = torch.rand(rows, setting["most"], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    never = torch.tensor([EOS_NEVER])

    def seconds(tokens: int) -> float:
        start = place.now()
        sample(models.policy, prompts, uniforms[:, :tokens], group_size=setting["G"], eos_ids=never, pad_id=0)
        return place.now() - start

    emit("the first completions, compilation included", seconds(setting["most"] if speed_up else 4), "s")
    taken = seconds(setting["most"])
    parameters = sum(parameter.numel() for parameter in models.policy.parameters())
    read = decoding_bytes(
        setting, place.sizes.shape, parameters, models.policy.dtype.itemsize, slots=speed_up is not None
    )
    peak = device_peak(place.device, models.policy.dtype)
    emit("tokens a second", rows * setting["most"] / taken, "tokens/s")
    emit("milliseconds a token of all rows", 1000 * taken / setting["most"], "ms")
    emit("memory bandwidth over the peak", read / taken / peak.bandwidth, f"of {peak.bandwidth / 1e9:.0f} GB/s")
    logits = torch.randn(rows, place.sizes.shape["vocab_size"], device=place.device)
    start = place.now()
    inverse_cdf(logits, uniforms[:, 0].to(place.device))
    emit("milliseconds of a draw", 1000 * (place.now() - start), "ms")
    if place.cuda:
        emit("waits for the device a token", device_waits(lambda: seconds(8)) / 8, "")
        emit("peak memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")


def device_waits(function: Callable[[], object]) -> int:
    """How often the host waits for the GPU, as torch warns."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            function()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def measure_compiled(place: Place) -> None:
    measure_decoding(place, "compile_decoding")


def measure_graphs(place: Place) -> None:
    if place.cuda:
        measure_decoding(place, "cuda_graphs")
    else:
        emit("sampling", "a CPU has no CUDA graphs")


def measure_training(place: Place) -> None:
    import llm.train  # noqa: F401  # before the memory is read

    before, sampled = memory_mb("VmRSS"), [0.0]

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            start = place.now()
            result = function(*arguments, **keywords)
            sampled[0] += (place.now() - start) * (name == "sampling")
            return result

        return wrapped

    steps = FixedSteps(place.sizes.setting, place.full, 3, place.overrides(), timed)
    steps.step()
    count, sampled[0], start = 2, 0.0, place.now()
    for _ in range(count):
        steps.step()
    seconds = (place.now() - start) / count
    sampling = sampled[0] / count
    parameters = sum(parameter.numel() for parameter in steps.models.policy.parameters())
    peak = device_peak(place.device, steps.models.policy.dtype)
    flops = 4 * forward_flops(place.sizes.setting, place.sizes.shape, parameters)
    emit("tokens a second, whole step", steps.tokens / seconds, "tokens/s")
    emit("seconds of a step", seconds, "s")
    emit("seconds of sampling", sampling, "s")
    emit(
        "model flop utilisation of the training passes",
        flops / (seconds - sampling) / peak.flops,
        f"of {peak.flops / 1e12:.3g} Tflop/s",
    )
    measured = torch.cuda.max_memory_allocated() / 2**30 if place.cuda else (memory_mb("VmHWM") - before) / 2**10
    estimated = planned_gib(place, steps.config)
    emit("peak memory", measured, "GiB")
    emit("peak memory over the estimate of llm.plan", measured / estimated, f"of {estimated:.3g} GiB")


def planned_gib(place: Place, config: Any) -> float:
    """The estimate of `llm.plan` for a step, without evaluation."""
    from llm.plan.estimate import estimate
    from llm.plan.settings import read_model_config, run_settings

    settings = run_settings(
        config,
        1,
        model=read_model_config("model.name_or_path", place.full),
        ranks=1,
        cuda=place.cuda,
        dtype_bytes=2 if place.dtype == "bfloat16" else 4,
        prompt_tokens=place.sizes.setting["prompt"],
    )
    return max(sum(phase.values()) for name, phase in estimate(settings).items() if name != "evaluation") / 2**30


def measure_zero3(place: Place) -> None:
    norms, seconds = {}, {}
    for engine in ("torch", "zero3"):
        overrides = place.overrides(**{"engine": engine})
        steps = FixedSteps(place.sizes.setting, place.shallow, 3, overrides, reward_of=varied_reward)
        norms[engine] = [float(steps.step()["grad_norm"])]
        start = place.now()
        norms[engine].append(float(steps.step()["grad_norm"]))
        seconds[engine] = place.now() - start
        del steps
    for step, (plain, zero) in enumerate(zip(norms["torch"], norms["zero3"], strict=True), start=1):
        error = abs(zero - plain) / plain if plain else float("inf")
        expected = verdict(error <= ZERO_TOLERANCE, f"<= {ZERO_TOLERANCE:g}") if step == 1 else ""
        emit(f"norm of the gradient in step {step}: relative difference from engine=torch", error, "", expected)
    for engine, taken in seconds.items():
        emit(f"seconds of a step, engine={engine}, {SHALLOW} layers at most", taken, "s")


def varied_reward(text: str) -> float:
    """A reward that differs between the texts of a model that is not trained, so that there is a gradient."""
    return sum(text.encode()) % 7 / 7


def measure_trl(place: Place) -> None:
    from benchmarks import llm_step

    name = "gpu" if place.cuda else "cpu"
    llm_step.SETTINGS[name] = {**place.sizes.setting, "turns": 2, "steps": 1}
    llm_step.MICRO_BATCH[name] = place.sizes.micro_batch
    turns: list[dict[str, float]] = []
    end = llm_step.run_trl(name, place.full, lambda: llm_step.Meter(name, 2, turns.append, lambda: None))
    seconds = min(turn["seconds"] for turn in turns[1:])
    emit("tokens a second, whole step", end["tokens"] / seconds, "tokens/s")
    emit("seconds of a step", seconds, "s")
    emit("seconds of sampling", min(turn["sampling"] for turn in turns[1:]), "s")
    emit("peak memory", end["memory_mb"] / 2**10, "GiB")
    emit("versions", ", ".join(f"{key} {value}" for key, value in end["versions"].items()))


def measure_vllm(place: Place) -> None:
    """In the environment of vLLM that runs with rollout=vllm find, too."""
    from conf.schema.base import ConfigError
    from llm.adapters import load_tokenizer
    from llm.inference.prompts import encode_chats
    from llm.rollout.server import vllm_python

    try:
        python = vllm_python(None)
    except ConfigError:
        emit("sampling", "no environment with vLLM", check="left out")
        return
    setting = place.sizes.setting
    prompts = encode_chats(load_tokenizer(place.full, padding_side="left"), chats(setting))
    ids = [row[keep].tolist() for row, keep in zip(prompts.ids, prompts.mask, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prompts.json"
        path.write_text(json.dumps(ids), "utf-8")
        script = str(Path(__file__).with_name("vllm_sampling.py"))
        numbers = [str(setting["G"]), str(setting["most"])]
        command = [python, script, place.full, place.dtype, str(path), *numbers]
        child = subprocess.run(command, capture_output=True, text=True)
    if child.returncode:
        sys.exit((child.stderr.strip() or child.stdout.strip() or "no message").splitlines()[-1])
    result = json.loads(child.stdout.splitlines()[-1])
    expected = setting["P"] * setting["G"] * setting["most"]
    emit("tokens a second", result["tokens"] / result["seconds"], "tokens/s")
    emit("tokens sampled", result["tokens"], "tokens", verdict(result["tokens"] == expected, f"{expected}"))
    emit("version", result["version"])


def measure_one_two(place: Place) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        overrides = [f"model.device={place.device.type}", *place.sizes.one_two, f"hydra.run.dir={run}"]
        command = [sys.executable, "-m", "llm", "experiment=one_two", "transform=mara", *overrides]
        start = time.perf_counter()
        child = subprocess.run(command, cwd=HOME, capture_output=True, text=True)
        if child.returncode:
            sys.exit((child.stderr.strip() or child.stdout.strip()).splitlines()[-1])
        emit("seconds of the whole command", time.perf_counter() - start, "s")
        summary = json.loads((run / "summary.json").read_text("utf-8"))
    trained = not place.sizes.one_two
    shares = {key: float(summary[key]) for key in ("correct", "share/1", "share/2")}
    least = {"correct": 0.8, "share/1": 0.2, "share/2": 0.2}
    for key, share in shares.items():
        emit(key, share, "of completions", verdict(share >= least[key], f">= {least[key]}") if trained else "")


MEASURES: dict[str, Callable[[Place], None]] = {
    "model": measure_model,
    "tests": measure_tests,
    "packed": measure_packed,
    "decoding": measure_decoding,
    "compiled": measure_compiled,
    "graphs": measure_graphs,
    "training": measure_training,
    "zero3": measure_zero3,
    "trl": measure_trl,
    "vllm": measure_vllm,
    "one_two": measure_one_two,
}


def main() -> None:
    part, device, folder = sys.argv[1:]
    MEASURES[part](Place(device, folder))


if __name__ == "__main__":
    main()
