"""PyTorch, FlashAttention and Transformers on one Hopper GPU: one JSON object a line on stdout.

usage: torch_gpu_peer.py attention|decode|linear|serve|train [options]   (see --help of each)
       torch_gpu_peer.py requests     one command a line on stdin, as JSON lists; each is answered by its
                                      rows and {"done": true}

TFLOP/s count unmasked (query, key) pairs: 4 head_dim a pair forward, 10 backward. Patterns are block
masks of 64 tokens, as longgen's; flash-attn-4 walks blocks of 128, so its window of 32 x 64 tokens and its
sink are 16 and 1 of its blocks, and its own pairs count. A peer that is not installed gives no row.
"""
import argparse
import json
import statistics
import sys

import torch
import torch._functorch.config
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

DEVICE = "cuda"
BLOCK = 64
torch._functorch.config.donated_buffer = False  # backward is timed alone, several times for one forward


def emit(**row):
    print(json.dumps(row), flush=True)


def timed(work, repeats=7, warm_up=2, inner=1):
    """Median seconds of a call, by events around `inner` of them; three repeats of what takes long."""
    for _ in range(warm_up):
        work()
    torch.cuda.synchronize()
    times = []
    while len(times) < repeats and (len(times) < 3 or sum(times) * inner < 1):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(inner):
            work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000 / inner)
    return statistics.median(times)


def in_graph(work, calls):
    """Seconds of a call, `calls` of them in a CUDA graph."""
    work(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(calls):
            work(i)
    return timed(graph.replay) / calls


class Pattern:
    """full, sink-window (1 sink block, the last 32) or strided (1, 16, every 64th)."""

    def __init__(self, name, block=BLOCK):
        self.name, self.block, scale = name, block, block // BLOCK
        self.sink = {"full": 0, "sink-window": 1, "strided": 1}[name]
        self.local = {"full": 1 << 40, "sink-window": 32 // scale, "strided": 16 // scale}[name]
        self.stride = {"full": 0, "sink-window": 0, "strided": 64 // scale}[name]

    def mask_mod(self):
        """A function of indices, as FlexAttention takes them: no method."""
        block, sink, local, stride = self.block, self.sink, self.local, self.stride

        def causal(b, h, q, k):
            return q >= k

        def sparse(b, h, q, k):
            seen = (q // block - k // block < local) | (k // block < sink)
            if stride > 0:
                seen = seen | ((k // block + 1) % stride == 0)
            return (q >= k) & seen

        return causal if self.name == "full" else sparse

    def blocks(self, length):
        """[query block, key block], true where it sees a block before its own."""
        i = torch.arange(length // self.block)[:, None]
        j = torch.arange(length // self.block)[None, :]
        seen = (i - j < self.local) | (j < self.sink)
        if self.stride > 0:
            seen |= (j + 1) % self.stride == 0
        return seen & (j < i)

    def pairs(self, length):
        if self.name == "full":
            return length * (length + 1) // 2
        return (int(self.blocks(length).sum()) * self.block**2
                + length // self.block * self.block * (self.block + 1) // 2)


def report(args, peer, pattern, length, forward, gradient_of, **more):
    """Times forward and, with --direction backward, backward alone."""
    flops = 4 * pattern.pairs(length) * args.head_dim * int(args.heads.split(":")[0])
    try:
        if args.compile_only:
            out = forward()
            out = out[0] if isinstance(out, tuple) else out
            out.backward(torch.randn_like(out))
            return
        if "forward" in args.direction:
            seconds = timed(forward)  # as training calls it: log-sum-exp is written, as longgen's is
            emit(peer=peer, pattern=pattern.name, direction="forward", length=length, seconds=seconds,
                 tflops=flops / seconds / 1e12, **more)
        if "backward" in args.direction:
            out = forward()
            out = out[0] if isinstance(out, tuple) else out
            gradient = torch.randn_like(out)
            seconds = timed(lambda: torch.autograd.grad(out, gradient_of, gradient, retain_graph=True))
            emit(peer=peer, pattern=pattern.name, direction="backward", length=length, seconds=seconds,
                 tflops=2.5 * flops / seconds / 1e12, **more)
    except Exception as error:  # a peer may refuse a shape
        print(f"{peer}: {str(error)[:300]}", file=sys.stderr, flush=True)
    torch.cuda.empty_cache()


def tensors(args, length, heads_first):
    q_heads, kv_heads = map(int, args.heads.split(":"))
    shape = lambda h: (1, h, length, args.head_dim) if heads_first else (1, length, h, args.head_dim)
    return [torch.randn(shape(h), device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
            for h in (q_heads, kv_heads, kv_heads)]


def sdpa(args, length, name, backend):
    q, k, v = tensors(args, length, True)
    grouped = q.shape[1] != k.shape[1]

    def forward():
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)

    report(args, name, Pattern("full"), length, forward, (q, k, v))


def listed(blocks):
    """Counts and indices, the true ones of each row first, as block masks want them."""
    index = torch.argsort(blocks.to(torch.int8), dim=1, descending=True, stable=True)
    return [x.to(torch.int32)[None, None].to(DEVICE).contiguous() for x in (blocks.sum(1), index)]


def flex_mask(pattern, length, size=128):
    """Our mask by FlexAttention's blocks of `size`: whole ones, and those that a mask is laid over. From
    indices: create_block_mask forms the mask of every pair, which at 128K no memory holds."""
    from torch.nn.attention.flex_attention import BlockMask
    diagonal = torch.eye(length // BLOCK, dtype=torch.bool)
    side, scale = length // size, size // BLOCK
    tiles = lambda blocks: blocks.view(side, scale, side, scale).transpose(1, 2).reshape(side, side, -1)
    whole = tiles(pattern.blocks(length)).all(-1)
    some = tiles(pattern.blocks(length) | diagonal).any(-1) & ~whole
    return BlockMask.from_kv_blocks(*listed(some), *listed(whole), BLOCK_SIZE=size, mask_mod=pattern.mask_mod(),
                                    seq_lengths=(length, length))


def flex(args, length, pattern):
    from torch.nn.attention.flex_attention import flex_attention
    call = torch.compile(flex_attention, dynamic=False)
    q, k, v = tensors(args, length, True)
    grouped = q.shape[1] != k.shape[1]
    mask = flex_mask(pattern, length)
    report(args, "flex", pattern, length, lambda: call(q, k, v, block_mask=mask, enable_gqa=grouped), (q, k, v))


def fa4_lists(pattern, length):
    """Whole blocks by query block and, for backward, by key block; diagonal blocks are masked."""
    from flash_attn.cute.block_sparsity import BlockSparseTensorsTorch
    blocks = pattern.blocks(length)
    diagonal = listed(torch.eye(length // pattern.block, dtype=torch.bool))
    return [BlockSparseTensorsTorch(*(x.clone() for x in diagonal), *listed(lists),
                                    block_size=(pattern.block, pattern.block)) for lists in (blocks, blocks.T)]


def fa4(args, length, name):
    try:
        import flash_attn.cute.interface as fa
    except ImportError:
        return
    q, k, v = tensors(args, length, False)
    if name == "full":
        for more in ({}, {"deterministic": True}):
            report(args, "fa4" + (" deterministic" if more else ""), Pattern("full"), length,
                   lambda: fa.flash_attn_func(q, k, v, causal=True, **more), (q, k, v))
        return

    def causal(b, h, q_index, k_index, lengths, extra):
        return q_index >= k_index

    pattern = Pattern(name, 128)
    forward, backward = fa4_lists(pattern, length)
    report(args, "fa4", pattern, length,
           lambda: fa.flash_attn_func(q, k, v, mask_mod=causal, block_sparse_tensors=forward,
                                      block_sparse_tensors_bwd=backward), (q, k, v), blocks=128)


def attention(args):
    for length in args.length:
        for name in args.pattern:
            if name == "full" and not args.compile_only:
                sdpa(args, length, "cudnn", SDPBackend.CUDNN_ATTENTION)
                if args.flash2:
                    sdpa(args, length, "flash2", SDPBackend.FLASH_ATTENTION)
            if name != "full" or args.flex_full:
                flex(args, length, Pattern(name))
            fa4(args, length, name)


def decode(args):
    """One query a head behind `length` keys, in a graph, over copies that together exceed the L2."""
    q_heads, kv_heads = map(int, args.heads.split(":"))
    for length in args.length:
        size = 2 * kv_heads * length * args.head_dim * 2
        copies = max(1, min(64, round(256e6 / size)))
        make = lambda h, n: torch.randn(args.batch, h, n, args.head_dim, device=DEVICE, dtype=torch.bfloat16)
        q = make(q_heads, 1)
        caches = [(make(kv_heads, length), make(kv_heads, length)) for _ in range(copies)]
        for name, backend in (("cudnn", SDPBackend.CUDNN_ATTENTION), ("flash2", SDPBackend.FLASH_ATTENTION)):
            def work(i):
                with sdpa_kernel(backend), torch.no_grad():
                    F.scaled_dot_product_attention(q, *caches[i % copies], enable_gqa=q_heads != kv_heads)
            try:
                seconds = in_graph(work, max(4, copies))
                emit(peer=name, direction="decode", length=length, seconds=seconds,
                     gb_per_second=size * args.batch / seconds / 1e9)
            except Exception as error:
                print(f"{name}: {str(error)[:300]}", file=sys.stderr)


def linear(args):
    """y [M, N] = x [M, K] w^T; dx and dw as autograd forms them."""
    for size in args.size:
        m, n, k = map(int, size.split("x"))
        new = lambda *shape: torch.randn(*shape, device=DEVICE, dtype=torch.bfloat16)
        x, w, dy = new(m, k), new(n, k), new(m, n)
        works = {"forward": lambda i: F.linear(x, w), "dx": lambda i: dy @ w, "dw": lambda i: dy.t() @ x}
        flops = 2 * m * n * k
        for direction in args.direction:
            with torch.no_grad():
                seconds = in_graph(works[direction], int(max(1, min(64, 2e11 // flops))))
            emit(m=m, n=n, k=k, direction=direction, seconds=seconds, tflops=flops / seconds / 1e12)


SHAPES = {  # vocabulary, hidden, intermediate, layers, heads, KV heads, head size, tied
    "smollm2-135m": (49152, 576, 1536, 30, 9, 3, 64, True),
    "llama-2-7b": (32000, 4096, 11008, 32, 32, 32, 128, False),
}


def make_model(shape, length, training):
    from transformers import LlamaConfig, LlamaForCausalLM
    vocab, hidden, inner, layers, heads, kv_heads, head_dim, tied = SHAPES[shape]
    config = LlamaConfig(vocab_size=vocab, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
                         num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim,
                         max_position_embeddings=length + 512, tie_word_embeddings=tied, attn_implementation="sdpa",
                         use_cache=not training)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(DEVICE):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    return config, model


def serve(args):
    """Prefill of a length, then greedy steps behind it, all layers full."""
    import time

    from transformers import DynamicCache
    config, model = make_model(args.shape, max(args.length), False)
    model.eval()

    def clock(work):
        torch.cuda.synchronize()
        start = time.perf_counter()
        result = work()
        torch.cuda.synchronize()
        return time.perf_counter() - start, result

    with torch.inference_mode():
        for length in args.length:
            ids = torch.randint(0, config.vocab_size, (1, length), device=DEVICE)
            for _ in range(2):  # the first warms up
                cache = DynamicCache(config=config)
                seconds, out = clock(lambda: model(ids, past_key_values=cache, logits_to_keep=1))
            emit(work="prefill", length=length, seconds=seconds, tokens_per_second=length / seconds)
            token = out.logits[:, -1:].argmax(-1)
            times = []
            for _ in range(args.steps + 3):
                seconds, out = clock(lambda: model(token, past_key_values=cache))
                token = out.logits[:, -1:].argmax(-1)
                times.append(seconds)
            seconds = statistics.median(times[3:])
            emit(work="decode", depth=length, seconds=seconds, tokens_per_second=1 / seconds)


def train(args):
    """One step on one sequence: bf16 weights, fused AdamW, checkpointing."""
    config, model = make_model(args.shape, args.tokens, True)
    model.train()
    model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    ids = torch.randint(0, config.vocab_size, (1, args.tokens), device=DEVICE)

    def step():
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    seconds = timed(step, repeats=3, warm_up=1)
    emit(tokens=args.tokens, seconds=seconds, tokens_per_second=args.tokens / seconds,
         device_bytes=torch.cuda.max_memory_allocated())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)

    def kind(name, run, **options):
        p = kinds.add_parser(name)
        for option, settings in options.items():
            p.add_argument("--" + option.replace("_", "-"), **settings)
        p.set_defaults(run=run)

    heads, dim = {"default": "9:3"}, {"type": int, "default": 64}
    lengths = {"type": int, "nargs": "+", "default": [8192]}
    kind("attention", attention, heads=heads, head_dim=dim, length=lengths,
         pattern={"nargs": "+", "default": ["full"], "choices": ["full", "sink-window", "strided"]},
         direction={"nargs": "+", "default": ["forward", "backward"]}, flash2={"action": "store_true"},
         flex_full={"action": "store_true"}, compile_only={"action": "store_true"})
    kind("decode", decode, heads=heads, head_dim=dim, length=lengths, batch={"type": int, "default": 1})
    kind("linear", linear, size={"nargs": "+", "default": ["2048x1536x576"]},
         direction={"nargs": "+", "default": ["forward"]})
    shape = {"default": "smollm2-135m", "choices": list(SHAPES)}
    kind("serve", serve, shape=shape, length=lengths, steps={"type": int, "default": 16})
    kind("train", train, shape=shape, tokens={"type": int, "default": 8192})
    kinds.add_parser("requests")

    torch.manual_seed(0)
    emit(torch=torch.__version__, cudnn=torch.backends.cudnn.version(), gpu=torch.cuda.get_device_name())
    args = parser.parse_args()
    if args.kind != "requests":
        args.run(args)
        return
    for line in sys.stdin:
        request = parser.parse_args(json.loads(line))
        try:
            request.run(request)
        except Exception as error:  # the next request may do better
            print(f"{' '.join(json.loads(line))}: {str(error)[:300]}", file=sys.stderr, flush=True)
            emit(failed=str(error)[:300])
        torch.cuda.empty_cache()
        emit(done=True)


if __name__ == "__main__":
    main()
