"""PyTorch and Transformers on the CPU: one kind of work a process, one JSON object a line on stdout.

usage: torch_peer.py attention|linear|serve|train [options]   (see --help of each)

Weights are random, of SmolLM2-135M's shape. TFLOP/s count unmasked (query, key) pairs: 4 head_dim a
pair forward, 10 backward. Run it with GLIBC_TUNABLES as compare.py sets it: large pages from malloc
nearly double some of these figures.
"""
import argparse
import json
import os
import resource
import statistics
import time

THREADS = int(os.environ.get("OMP_NUM_THREADS", "0")) or len(os.sched_getaffinity(0))

import torch  # noqa: E402  (reads OMP_NUM_THREADS when it is imported)
import torch.nn.functional as F  # noqa: E402

torch.set_num_threads(THREADS)
torch.manual_seed(0)

VOCAB = 49152


def emit(**row):
    print(json.dumps(row), flush=True)


def resident():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def timed(work, seconds, least=3, most=30, warm_up=1):
    """Medians and bests of repeated calls."""
    for _ in range(warm_up):
        work()
    times = []
    while len(times) < most and (len(times) < least or sum(times) < seconds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return {"median": statistics.median(times), "best": min(times), "repeats": len(times)}


def attention(args):
    q_heads, kv_heads = map(int, args.heads.split(":"))
    n, d = args.length, args.head_dim
    pairs = n * (n + 1) // 2 * q_heads
    dtype = getattr(torch, args.dtype)
    q = torch.randn(1, q_heads, n, d).to(dtype)
    # Keys and values repeated beforehand: the kernel's own way for grouped heads is slower.
    k, v = (torch.randn(1, kv_heads, n, d).to(dtype).repeat_interleave(q_heads // kv_heads, 1).contiguous()
            for _ in range(2))
    def forward():
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if "forward" in args.direction:
        with torch.no_grad():
            seconds = timed(forward, args.seconds)
        emit(direction="forward", seconds=seconds, tflops=4 * d * pairs / seconds["median"] / 1e12)
    if "backward" in args.direction:
        for x in (q, k, v):
            x.requires_grad_()
        out = forward()
        gradient = torch.randn_like(out)
        seconds = timed(lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True), args.seconds)
        emit(direction="backward", seconds=seconds, tflops=10 * d * pairs / seconds["median"] / 1e12)


def linear(args):
    """y [M, N] = x [M, K] w^T; with --backward also dx and dw, as autograd forms them."""
    dtype = getattr(torch, args.dtype)
    for size in args.size:
        m, n, k = map(int, size.split("x"))
        x, w = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
        dy = torch.randn(m, n).to(dtype)
        flops = 2 * m * n * k
        calls = max(1, int(2e8 // flops))
        works = {"forward": lambda: F.linear(x, w), "dx": lambda: dy @ w, "dw": lambda: dy.t() @ x}
        for direction in args.direction:
            work = works[direction]

            def several():
                for _ in range(calls):
                    work()

            with torch.no_grad():
                seconds = timed(several, args.seconds, warm_up=3)
            emit(m=m, n=n, k=k, direction=direction, seconds=seconds["median"] / calls,
                 tflops=flops * calls / seconds["median"] / 1e12)


def make_model(length, training):
    from transformers import LlamaConfig, LlamaForCausalLM
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, head_dim=64,
        max_position_embeddings=max(8192, length + 64), rms_norm_eps=1e-5, rope_theta=100000.0,
        tie_word_embeddings=True, attn_implementation="sdpa", bos_token_id=1, eos_token_id=2,
        use_cache=not training)
    return config, LlamaForCausalLM(config)


def serve(args):
    """Prefill of a length, then greedy steps behind it."""
    from transformers import DynamicCache
    config, model = make_model(max(args.length), False)
    model = model.to(getattr(torch, args.dtype)).eval()
    with torch.inference_mode():
        model(input_ids=torch.randint(0, VOCAB, (1, 256)), logits_to_keep=1)  # warm-up
        for length in args.length:
            ids = torch.randint(0, VOCAB, (1, length))
            state = {}

            def prefill():
                state["cache"] = DynamicCache(config=config)
                state["out"] = model(input_ids=ids, past_key_values=state["cache"], logits_to_keep=1)

            seconds = timed(prefill, args.seconds, least=1, warm_up=0)
            emit(work="prefill", length=length, seconds=seconds,
                 tokens_per_second=length / seconds["median"], resident_bytes=resident())
            token = state["out"].logits[:, -1:].argmax(-1)
            times = []
            for _ in range(args.steps + 1):
                start = time.perf_counter()
                token = model(input_ids=token, past_key_values=state["cache"]).logits[:, -1:].argmax(-1)
                times.append(time.perf_counter() - start)
            if args.steps:
                emit(work="decode", depth=length, tokens_per_second=1 / statistics.median(times[1:]),
                     resident_bytes=resident())


def train(args):
    """One optimizer step on one sequence: bf16 autocast, fused AdamW."""
    _, model = make_model(args.tokens, True)
    if args.checkpointing:
        model.gradient_checkpointing_enable()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    ids = torch.randint(0, VOCAB, (1, args.tokens))

    def step(tokens=args.tokens):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=ids[:, :tokens], labels=ids[:, :tokens]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step(args.warm_up or args.tokens)
    seconds = timed(step, args.seconds, least=1, warm_up=0)
    emit(tokens=args.tokens, checkpointing=args.checkpointing, seconds=seconds,
         tokens_per_second=args.tokens / seconds["median"], resident_bytes=resident())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--seconds", type=float, default=2, help="repeat at least this long")
    common.add_argument("--dtype", default="bfloat16")
    p = kinds.add_parser("attention", parents=[common])
    p.add_argument("--heads", default="9:3")
    p.add_argument("--head-dim", type=int, default=64)
    p.add_argument("--length", type=int, default=8192)
    p.add_argument("--direction", nargs="+", default=["forward", "backward"])
    p.set_defaults(run=attention)
    p = kinds.add_parser("linear", parents=[common])
    p.add_argument("--size", nargs="+", default=["2048x1536x576"], help="MxNxK")
    p.add_argument("--direction", nargs="+", default=["forward"])
    p.set_defaults(run=linear)
    p = kinds.add_parser("serve", parents=[common])
    p.add_argument("--length", type=int, nargs="+", default=[2048])
    p.add_argument("--steps", type=int, default=16)
    p.set_defaults(run=serve)
    p = kinds.add_parser("train", parents=[common])
    p.add_argument("--tokens", type=int, default=2048)
    p.add_argument("--checkpointing", action="store_true")
    p.add_argument("--warm-up", type=int, metavar="TOKENS", help="length of the step before (default: the same)")
    p.set_defaults(run=train)
    args = parser.parse_args()
    emit(torch=torch.__version__, threads=torch.get_num_threads(),
         capability=torch.backends.cpu.get_cpu_capability())
    args.run(args)


if __name__ == "__main__":
    main()
