"""Every field of a generation configuration is known, and a model's can always be saved."""

import pytest
import torch
from transformers import GenerationConfig

from llm.inference.generation_config import (
    ENDS,
    LENGTHS,
    SAMPLING,
    WITHOUT_EFFECT,
    describe_ignored,
    sampling_fields,
    savable,
)


def test_every_field_of_the_installed_transformers_is_classified():
    classified = [*SAMPLING, *ENDS, *LENGTHS, *WITHOUT_EFFECT]
    assert len(classified) == len(set(classified))
    assert set(vars(GenerationConfig())) <= set(classified)


CHANGED = {
    **{"temperature": 0.5, "top_k": 5, "top_p": 0.5, "min_p": 0.1, "top_h": 0.5, "typical_p": 0.5},
    **{"epsilon_cutoff": 0.02, "eta_cutoff": 0.9, "repetition_penalty": 1.5, "no_repeat_ngram_size": 1},
    **{"bad_words_ids": [[3]], "suppress_tokens": [3], "begin_suppress_tokens": [3], "sequence_bias": {(3,): 1.0}},
    **{"forced_bos_token_id": 3, "forced_eos_token_id": 3, "min_length": 4, "min_new_tokens": 3},
    **{"exponential_decay_length_penalty": (1, 1.5), "length_penalty": 2.0},
    **{"renormalize_logits": True, "decoder_start_token_id": 3, "return_dict_in_generate": True},
}


@pytest.mark.parametrize("name", CHANGED)
def test_the_classes_agree_with_what_generate_does(random_model, name):
    """A field changes sampling if it changes the scores that `generate` samples from."""
    config = GenerationConfig(do_sample=True, top_k=0, max_new_tokens=5, eos_token_id=1, pad_token_id=2)
    setattr(config, name, CHANGED[name])
    outputs = random_model.generate(
        torch.tensor([[7]]), generation_config=config, output_scores=True, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    changed = any(
        not torch.allclose(a.softmax(-1), b.softmax(-1)) for a, b in zip(outputs.scores, outputs.logits, strict=True)
    )
    assert changed == (name in SAMPLING)
    assert bool(sampling_fields(config)) == changed


def test_what_is_not_used_is_said():
    assert describe_ignored(None) is None
    neutral = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "eos_token_id": 3}
    assert describe_ignored(GenerationConfig(**neutral)) is None
    assert sampling_fields(GenerationConfig(**neutral, top_k=20)) == {"top_k": 20}
    config = GenerationConfig(do_sample=True, temperature=0.6, top_k=20)
    assert describe_ignored(config) == (
        "sampling from the model's own distribution, without temperature=0.6, top_k=20 of its generation_config.json"
    )


def with_fields(**fields):
    config = GenerationConfig(eos_token_id=[3, 4])
    for name, value in fields.items():  # as a file may set them
        setattr(config, name, value)
    return config


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"temperature": 0.6, "do_sample": True}, {"temperature": 0.6, "do_sample": True}),
        ({"temperature": 0.6, "top_p": 0.9}, {"temperature": 0.6, "top_p": 0.9, "do_sample": True}),
        ({"num_beams": 1}, {"num_beams": 1, "do_sample": None}),
        ({"num_return_sequences": 5, "num_beams": 2}, {"num_return_sequences": None, "num_beams": None}),
    ],
)
def test_a_configuration_can_be_saved(tmp_path, fields, kept):
    config = with_fields(**fields)
    savable(config).save_pretrained(tmp_path)
    saved = GenerationConfig.from_pretrained(tmp_path)
    assert {name: getattr(saved, name) for name in kept} == kept
    assert saved.eos_token_id == [3, 4]
    assert {name: getattr(config, name) for name in fields} == fields  # unchanged


@pytest.mark.parametrize("fields", [{"temperature": 0.6}, {"num_return_sequences": 5, "num_beams": 2}])
def test_control_transformers_refuses_to_save_some(tmp_path, fields):
    with pytest.raises(ValueError, match=r"invalid|has to be"):
        with_fields(**fields).save_pretrained(tmp_path)
