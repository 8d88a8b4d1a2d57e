"""Generates greedily with vLLM in a process of its own and prints the tokens: vllm_generate.py MODEL BACKEND PROMPTS_JSON."""

import json
import sys

if __name__ == "__main__":  # vLLM's engine process imports this file again
    from vllm import LLM, SamplingParams

    folder, backend, prompts = sys.argv[1:4]
    llm = LLM(model=folder, skip_tokenizer_init=True, dtype="float32", max_model_len=128, enforce_eager=True, attention_backend=backend, block_size=32,
              max_num_batched_tokens=128)  # fmt: skip
    parameters = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True, detokenize=False)
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in json.loads(prompts)], parameters)
    print("TOKENS", json.dumps([list(output.outputs[0].token_ids) for output in outputs]))
