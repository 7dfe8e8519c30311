"""What a stand-in of vLLM answers if it really samples: from the model in the files that it was given."""

import threading
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM


class ModelFiles:
    """Samples from the model of a folder, or from a base with the adapter of a folder; read anew when files change.

    base: folder of the base of adapters.
    scale: of the logits; another one than 1 is a server whose probabilities differ from the policy's.
    """

    def __init__(self, base=None, scale=1.0):
        self.base, self.scale = base, scale
        self._read: tuple[Any, Any] = (None, None)
        self._lock = threading.Lock()  # from_pretrained replaces parts of torch and transformers while it works

    def model(self, folder):
        with self._lock:
            return self._model(folder)

    def _model(self, folder):
        key = [(str(file), file.stat().st_mtime_ns) for file in sorted(Path(folder).rglob("*.safetensors"))]
        if self._read[0] != key:
            if (Path(folder) / "adapter_config.json").exists():
                from peft import PeftModel

                model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(self.base), folder)
            else:
                model = AutoModelForCausalLM.from_pretrained(folder)
            self._read = key, model.float().eval()
        return self._read[1]

    @torch.no_grad()
    def __call__(self, body, folder):
        """The completions of a request, each with its own seed."""
        model, params = self.model(folder), body["sampling_params"]
        one = partial(self._complete, model, body["token_ids"], params)
        return [one(params["seed"] + index) for index in range(params["n"])]

    def _complete(self, model, prompt, params, seed):
        generator = torch.Generator().manual_seed(seed)
        tokens: list[int] = []
        logp: list[float] = []
        while len(tokens) < params["max_tokens"]:
            logits = model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0, -1] * self.scale
            tokens.append(int(torch.multinomial(logits.softmax(-1), 1, generator=generator)))
            logp.append(float(logits.log_softmax(-1)[tokens[-1]]))
            if tokens[-1] in params["stop_token_ids"]:
                return tokens, logp, "stop"
        return tokens, logp, "length"
