"""llama.cpp through llama-cpp-python: prefill of lengths and decode at depths, one JSON object a line.

usage: llama_peer.py MODEL.gguf [--flash-attention 0|1] [--length N...] [--depth N...]

One context grows to the greatest length or depth in batches of 2,048 tokens (llama.cpp's default,
512 of them at once); the time of N tokens is that of its batches. At each depth some steps of one
token follow and are taken back.
"""
import argparse
import ctypes
import json
import os
import random
import resource
import statistics
import time

import llama_cpp as llama

BATCH = 2048


def emit(**row):
    print(json.dumps(row), flush=True)


class Context:
    def __init__(self, args):
        self.quiet = llama.llama_log_callback(lambda level, text, data: None)
        llama.llama_log_set(self.quiet, ctypes.c_void_p(0))
        llama.llama_backend_init()
        self.model = llama.llama_model_load_from_file(args.model.encode(), llama.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"error: llama.cpp cannot load {args.model}")
        params = llama.llama_context_default_params()
        params.n_ctx = max([*args.length, *args.depth]) + args.steps + 512
        params.n_batch = BATCH
        params.n_threads = params.n_threads_batch = args.threads
        params.flash_attn_type = (llama.LLAMA_FLASH_ATTN_TYPE_ENABLED if args.flash_attention
                                  else llama.LLAMA_FLASH_ATTN_TYPE_DISABLED)
        self.context = llama.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"error: llama.cpp has no context of {params.n_ctx} tokens here")
        self.memory = llama.llama_get_memory(self.context)
        self.vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))
        self.random = random.Random(1)

    def decode(self, count):
        """Seconds for `count` random tokens."""
        ids = (llama.llama_token * count)(*(self.random.randrange(self.vocab) for _ in range(count)))
        start = time.perf_counter()
        if llama.llama_decode(self.context, llama.llama_batch_get_one(ids, count)) != 0:
            raise SystemExit("error: llama_decode failed")
        llama.llama_synchronize(self.context)
        return time.perf_counter() - start

    def clear(self):
        llama.llama_memory_clear(self.memory, True)

    def cut(self, length):
        llama.llama_memory_seq_rm(self.memory, 0, length, -1)


def steps_at(context, depth, args):
    seconds = [context.decode(1) for _ in range(args.steps + 1)][1:]
    context.cut(depth)
    emit(work="decode", depth=depth, tokens_per_second=1 / statistics.median(seconds),
         flash_attention=args.flash_attention)


def grow(context, args, prefilled):
    """One pass from nothing to the greatest length; adds the seconds to reach each length."""
    done, seconds = 0, 0.0
    for stop in sorted({*args.length, *args.depth}):
        while done < stop:
            count = min(BATCH, stop - done)
            seconds += context.decode(count)
            done += count
        if stop in args.length and stop > 0:
            prefilled[stop].append(seconds)
        if stop in args.depth:
            steps_at(context, stop, args)
    context.clear()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--flash-attention", type=int, default=1)
    parser.add_argument("--length", type=int, nargs="*", default=[])
    parser.add_argument("--depth", type=int, nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    context = Context(args)
    emit(llama_cpp_python=llama.__version__, system=llama.llama_print_system_info().decode().strip())
    context.decode(256)  # warm-up
    context.clear()
    prefilled = {length: [] for length in args.length}
    for _ in range(args.repeats):
        grow(context, args, prefilled)
    for length, seconds in prefilled.items():
        emit(work="prefill", length=length, tokens_per_second=length / statistics.median(seconds),
             flash_attention=args.flash_attention)
    emit(resident_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    main()
