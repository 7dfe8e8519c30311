"""Sampling by vLLM, timed: `PYTHON vllm_sampling.py MODEL DTYPE PROMPTS GROUP TOKENS`.

It runs in the environment of vLLM, which has nothing of this project. PROMPTS is a file with a JSON list of lists of
token ids.
Every completion has exactly TOKENS tokens. The last line printed is JSON: seconds, tokens and the version.
"""

import json
import sys
import time


def main() -> None:
    import vllm

    model, dtype, path, group, tokens = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        prompts = [{"prompt_token_ids": ids} for ids in json.load(file)]
    longest = max(len(prompt["prompt_token_ids"]) for prompt in prompts)
    server = vllm.LLM(model=model, dtype=dtype, max_model_len=longest + int(tokens), seed=0)

    def sample(count: int) -> int:
        options = vllm.SamplingParams(
            n=int(group), temperature=1.0, max_tokens=count, min_tokens=count, ignore_eos=True, detokenize=False
        )
        results = server.generate(prompts, options, use_tqdm=False)
        return sum(len(output.token_ids) for result in results for output in result.outputs)

    sample(4)  # loads and chooses kernels
    start = time.perf_counter()
    sampled = sample(int(tokens))
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "tokens": sampled, "version": vllm.__version__}))


if __name__ == "__main__":
    main()
