"""Loading: gradient checkpointing, a reference on another device, devices and dtypes, and unsupported models."""

import copy
import json
import shutil
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conf.schema.base import ConfigError
from llm import models as llm_models
from llm.evaluation.policy import sample_texts
from llm.inference.attention import log_once
from llm.inference.logprobs import completion_logp
from llm.models import enable_gradient_checkpointing, load_models, resolve_device, resolve_dtype, save_policy
from llm.tasks.one_two import OneTwo

from .architectures import build, shared_model


def logp(model, completions):
    with torch.no_grad():
        return completion_logp(model, *completions)


def gradients_and_saved_bytes(model, completions):
    """Gradients, and the bytes that the forward pass saves for the backward pass."""
    sizes = []

    def count(tensor):
        sizes.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        value = completion_logp(model, *completions).sum()
    return torch.autograd.grad(value, list(model.parameters())), sum(sizes)


def test_gradient_checkpointing_changes_memory_and_nothing_else(model_folder, completions, make_config):
    plain, checkpointed = (
        load_models(
            make_config(f"model.name_or_path={model_folder}", f"model.gradient_checkpointing={flag}").model
        ).policy
        for flag in ("false", "true")
    )
    assert torch.equal(logp(plain, completions), logp(checkpointed, completions))
    expected, size = gradients_and_saved_bytes(plain, completions)
    gradients, smaller_size = gradients_and_saved_bytes(checkpointed, completions)
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    assert smaller_size < size / 3


def test_gradient_checkpointing_without_packed_prompts(build_model, tokenizer, tmp_path, make_config, completions):
    """The cache that is otherwise repeated would be filled twice; whole rows are read instead."""
    build_model("bloom", len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    options = (f"model.name_or_path={tmp_path}", "model.gradient_checkpointing=true")
    checkpointed, plain = (load_models(make_config(*options[:n]).model).policy for n in (2, 1))
    expected, size = gradients_and_saved_bytes(plain, completions)
    gradients, smaller_size = gradients_and_saved_bytes(checkpointed, completions)
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert smaller_size < size


@pytest.mark.parametrize("name", ["opt", "xglm"])
def test_gradient_checkpointing_does_not_turn_dropout_on(name):
    """These layers apply dropout if they are in training mode, which transformers' own checkpointing needs."""
    model = build(name)
    ids = torch.arange(6)[None]
    expected = model(input_ids=ids, use_cache=False).logits
    enable_gradient_checkpointing(model)
    assert torch.equal(model(input_ids=ids, use_cache=False).logits, expected)
    for module in model.modules():  # control
        module.training, module.gradient_checkpointing = getattr(module, "gradient_checkpointing", False), False
    assert not torch.allclose(model(input_ids=ids, use_cache=False).logits, expected, atol=1e-3)


def test_a_copy_of_a_checkpointed_model_computes_with_its_own_weights():
    model = shared_model("qwen3")
    checkpointed = copy.deepcopy(model)
    enable_gradient_checkpointing(checkpointed)
    other = copy.deepcopy(checkpointed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    ids = torch.arange(6)[None]
    logits = [m(input_ids=ids, use_cache=False).logits for m in (model, checkpointed, other)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])


def test_an_adapter_on_a_layer_that_returns_a_tuple_is_refused(tokenizer, tmp_path, make_config):
    shared_model("phimoe").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    options = (f"model.name_or_path={tmp_path}", "model.lora.rank=2")
    message = (
        r"^model\.lora\.target_modules: the model cannot be called with an adapter on all of these layers; [^\n]*$"
    )
    with pytest.raises(ConfigError, match=message):
        load_models(make_config(*options).model)
    load_models(make_config(*options, "model.lora.target_modules=[q_proj,v_proj]").model)  # control


def test_gradient_checkpointing_needs_layers_that_transformers_can_checkpoint():
    message = (
        r"^model\.gradient_checkpointing: must be false for a model whose layers .*, got true with OpenAIGPTLMHead"
    )
    with pytest.raises(ConfigError, match=message):
        enable_gradient_checkpointing(shared_model("openai-gpt"))


def test_cuda_graphs_need_a_gpu(model_folder, make_config):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    config = make_config(f"model.name_or_path={model_folder}", "model.cuda_graphs=true", "model.device=auto")
    with pytest.raises(ConfigError, match=r"^model\.cuda_graphs: must be false without a GPU, got true$"):
        load_models(config.model)


def test_compiled_decoding_needs_whole_weights(make_config):
    with pytest.raises(ConfigError, match=r"^model\.compile_decoding: must be false with engine=zero3_offload"):
        make_config("model.compile_decoding=true", "engine=zero3_offload")
    assert make_config("model.compile_decoding=true", "engine=zero2").model.compile_decoding


@pytest.mark.gpu
def test_a_reference_on_the_cpu_is_used_on_the_gpu(model_folder, completions, make_config):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    config = make_config(f"model.name_or_path={model_folder}", "model.reference_on_cpu=true", "model.device=cuda")
    models = load_models(config.model)
    before = [(p.device.type, p.data_ptr()) for p in models.reference.parameters()]
    with models.as_reference(models.policy) as reference:
        assert {p.device.type for p in reference.parameters()} == {"cuda"}
        prompts, tokens, mask = completions
        on_gpu = (type(prompts)(*(t.cuda() for t in prompts)), tokens.cuda(), mask.cuda())
        assert torch.equal(logp(reference, on_gpu), logp(models.policy, on_gpu))
    assert [(p.device.type, p.data_ptr()) for p in models.reference.parameters()] == before


def test_the_attention_implementation_is_the_configured_one(model_folder, make_config):
    for name in ("eager", "sdpa"):
        config = make_config(f"model.name_or_path={model_folder}", f"model.attention={name}").model
        assert load_models(config).policy.config._attn_implementation == name
    with pytest.raises(ConfigError, match=r"^model\.attention: must be one of"):
        make_config("model.attention=fast")


def test_models_with_another_head_are_refused(tokenizer, tmp_path, make_config):
    for kind, supported in (("llama", True), ("gemma2", True), ("modernbert-decoder", False)):
        folder = tmp_path / kind
        shared_model(kind).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        config = make_config(f"model.name_or_path={folder}").model
        if supported:
            assert load_models(config).policy.config.model_type == kind
        else:
            message = (
                r"^model\.name_or_path: the logits must be the last hidden states .* not so in ModernBert[^\n]*$"
            )
            with pytest.raises(ConfigError, match=message):
                load_models(config)
    with pytest.raises(ConfigError, match=r"model\.name_or_path: must be a folder or hub name"):
        load_models(make_config(f"model.name_or_path={tmp_path}/nothing").model)


def test_a_model_without_a_chat_template_is_refused(model_folder, make_config):
    (model_folder / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match=r"^model\.name_or_path: the tokenizer of .* has no chat template"):
        load_models(make_config(f"model.name_or_path={model_folder}").model)


def test_policy_and_reference_start_equal_and_only_the_policy_trains(model_folder, make_config):
    models = load_models(make_config(f"model.name_or_path={model_folder}").model)
    assert all(p.requires_grad for p in models.policy.parameters())
    assert not any(p.requires_grad for p in models.reference.parameters())
    for name, parameter in models.policy.named_parameters():
        assert torch.equal(parameter, models.reference.get_parameter(name))
    assert models.eos_ids.tolist() == [1, models.tokenizer.eos_token_id]  # of the generation config, of the tokenizer
    before = models.reference_hash()
    with torch.no_grad():
        next(models.policy.parameters()).add_(1)
    assert models.reference_hash() == before
    with torch.no_grad():
        next(models.reference.parameters()).add_(1)
    assert models.reference_hash() != before


def test_auto_takes_what_the_machine_has(monkeypatch):
    monkeypatch.setattr(llm_models.torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"^device: must be auto or cpu, because no GPU is available, got cuda:1$"):
        resolve_device("cuda:1", "device")
    monkeypatch.setattr(llm_models.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(llm_models.torch.cuda, "is_bf16_supported", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert resolve_dtype("auto", torch.device("cpu")) == torch.float32
    assert resolve_dtype("float16", torch.device("cpu")) == torch.float16


# --- stops ---------------------------------------------------------------------------------------------------


def variant(tiny_folder, folder, generation=None, **tokenizer_changes):
    """The tiny model, which ends its answers with <|im_end|>, with other files around its weights."""
    shutil.copytree(tiny_folder, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name, value in tokenizer_changes.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(folder)
    ids = {"eos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>")}
    (folder / "generation_config.json").write_text(json.dumps({**ids, **(generation or {})}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **ids}))
    return folder


def correct_share(models, max_new_tokens=24):
    chats = dict(enumerate(OneTwo().prompts()))
    texts = sample_texts(models.policy, models, chats, range(64), 0, max_new_tokens, {})[0]
    return texts, sum(OneTwo().rewards([[]] * 64, texts)) / 64


TWO_ENDS = {"eos_token_id": [257, 256]}
PLAIN = (  # ends a question as the tiny model expects it, and an answer with no token
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% if m.role == 'user' %}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% else %} (end){% endif %}"
)


def test_a_base_model_stops_where_its_template_ends_a_turn(tiny_folder, tmp_path, make_config, capsys):
    """Files as of Gemma 3, Phi-3.5 (several eos tokens) and of Qwen2.5-3B (the template's token is not one)."""
    usual, share = correct_share(load_models(make_config(f"model.name_or_path={tiny_folder}").model))
    assert share > 0.7
    kinds: dict[str, dict[str, Any]] = {
        "several": {"generation": TWO_ENDS},
        "base": {},
        "no eos": {"eos_token": None},
    }
    for name, files in kinds.items():
        changes = {"eos_token": "<|endoftext|>", **files}
        folder = variant(tiny_folder, tmp_path / name, **changes)
        log_once.cache_clear()
        models = load_models(make_config(f"model.name_or_path={folder}").model)
        assert ("completions also end at <|im_end|>" in capsys.readouterr().out) == (name != "several")
        assert models.eos_ids.tolist() == [257, 256]
        assert correct_share(models)[0] == usual
        cut = correct_share(models._replace(eos_ids=torch.tensor([257])))  # control: with the eos token of the files
        assert cut[1] == 0
        assert all("<|im_end|>" in text for text in cut[0])


def test_stops_of_the_configuration_are_added_and_saved(tiny_folder, tmp_path, make_config):
    usual, _ = correct_share(load_models(make_config(f"model.name_or_path={tiny_folder}").model))
    folder = variant(tiny_folder, tmp_path / "plain", eos_token="<|endoftext|>", chat_template=PLAIN)
    _, share = correct_share(load_models(make_config(f"model.name_or_path={folder}").model))
    assert share == 0  # control: nothing names <|im_end|>
    for number, key in enumerate(
        ("model.stop.tokens=['<|im_end|>']", "model.stop.tokens=[256]", "model.stop.strings=['<|im_end|>']")
    ):
        config = make_config(f"model.name_or_path={folder}", key).model
        models = load_models(config)
        assert correct_share(models)[0] == usual
        run = tmp_path / str(number)
        save_policy(models.policy, models.tokenizer, config, run)
        saved = load_models(make_config(f"model.name_or_path={run / 'policy'}").model)  # without the key
        assert correct_share(saved)[0] == usual
    with pytest.raises(ConfigError, match=r"^model\.stop\.tokens: must be single tokens, got 'abc'"):
        load_models(make_config(f"model.name_or_path={folder}", "model.stop.tokens=[abc]").model)
    for wrong in ("tokens=[1.5]", "tokens=['']", "tokens=[true]", "strings=['']", "tokens=[-1]"):
        with pytest.raises(ConfigError, match=r"^model\.stop\.(tokens|strings): must"):
            make_config(f"model.stop.{wrong}")


@pytest.mark.parametrize("rank", ["null", "2"])
def test_a_policy_keeps_the_sampling_fields_that_are_not_used_here(tiny_folder, tmp_path, make_config, capsys, rank):
    if rank != "null":
        pytest.importorskip("peft", reason="needs the extra lora")
    fields = {"temperature": 0.6, "top_k": 20}  # without do_sample, which transformers does not save
    folder = variant(tiny_folder, tmp_path / f"fields{rank}", fields)
    config = make_config(f"model.name_or_path={folder}", f"model.lora.rank={rank}").model
    models = load_models(config)
    assert (
        correct_share(models)[0]
        == correct_share(load_models(make_config(f"model.name_or_path={tiny_folder}").model))[0]
    )
    save_policy(models.policy, models.tokenizer, config, tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "policy").generation_config
    assert (saved.temperature, saved.top_k, saved.do_sample) == (0.6, 20, True)
    assert saved.eos_token_id == [257, 256]


def test_a_model_without_any_end_says_so(tiny_folder, tmp_path, make_config, capsys):
    folder = variant(
        tiny_folder, tmp_path / "none", {"eos_token_id": None}, eos_token=None, pad_token=None, chat_template=PLAIN
    )
    config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": None, "pad_token_id": None}
    (folder / "config.json").write_text(json.dumps(config))
    log_once.cache_clear()
    models = load_models(make_config(f"model.name_or_path={folder}").model)
    assert models.eos_ids.tolist() == []
    assert "no token ends a completion of this model" in capsys.readouterr().out.replace("\n", " ")
    texts, share = correct_share(models, 4)
    assert share == 0
    assert {len(models.tokenizer(text)["input_ids"]) for text in texts} == {4}
