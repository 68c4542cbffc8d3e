#!/usr/bin/env python3
"""The other side of `results speed`: the same models in plain PyTorch, for comparison.

The Rust program writes models, weights and samples into a folder, starts this script on it, and then takes turns with
it, one JSON object a line on standard input and output, so that both run on the same cores under the same load. Models
are plain nn.Modules whose tensors have the names of the weights file; nothing of the project is used here. That the
losses agree shows that PyTorch reads the project's weights, and the project those that PyTorch wrote.

Needs: pip install torch==2.13.0 numpy safetensors
"""

import json
import math
import os
import sys
import time

# before torch is loaded: one thread, and no spinning beside the other program
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")


def say(answer):
    print(json.dumps(answer), flush=True)


try:
    import torch
    import torch.nn.functional as F
    from safetensors.torch import load_file, save_file
    from torch import nn
except ImportError as e:
    say({"error": f"{e.name} for Python is missing: pip install torch==2.13.0 numpy safetensors"})
    sys.exit(0)


class Mlp(nn.Module):
    def __init__(self, inputs, hidden, classes):
        super().__init__()
        widths = [inputs, *hidden, classes]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:]))

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class Cnn(nn.Module):
    def __init__(self, channels, height, width, filters, hidden, classes):
        super().__init__()
        self.image = (channels, height, width)
        depths = [channels, *filters]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(depths, depths[1:]))
        flat = depths[-1] * (height >> len(filters)) * (width >> len(filters))
        self.layers = nn.ModuleList([nn.Linear(flat, hidden), nn.Linear(hidden, classes)])

    def forward(self, x):
        x = x.view(-1, *self.image)
        for conv in self.convs:
            x = F.max_pool2d(F.relu(conv(x)), 2)
        return self.layers[1](F.relu(self.layers[0](x.flatten(1))))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.fused = True

    def forward(self, x):
        n, context, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(n, context, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if self.fused:
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            future = torch.ones(context, context, dtype=torch.bool).triu(1)
            scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
            seen = scores.masked_fill(future, -math.inf).softmax(-1) @ v
        x = x + self.out(seen.transpose(1, 2).reshape(n, context, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self, context, width, layers, heads):
        super().__init__()
        self.embed, self.position = nn.Embedding(256, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256, bias=False)

    def forward(self, x):
        x = self.embed(x) + self.position.weight[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


KINDS = {"linear": Mlp, "mlp": Mlp, "cnn": Cnn, "transformer": Transformer}


class Samples:
    """A split as every node reads it: images as bytes, or running text."""

    def __init__(self, path, context):
        split = load_file(path)
        if context:
            text = split["text"]
            self.windows = text.unfold(0, context + 1, context)
        else:
            self.inputs, self.classes = split["inputs"], split["classes"]
        self.context = context

    def batch(self, indices, kind):
        if self.context:
            windows = self.windows[indices].long()
            return windows[:, :-1], windows[:, 1:]
        return self.inputs[indices].to(kind) / 255, self.classes[indices].long()


class Model:
    def __init__(self, folder, spec):
        self.folder, self.spec, self.name = folder, spec, spec["name"]
        ((kind, figures),) = spec["architecture"].items()
        self.new = lambda: KINDS[kind](**figures)
        context = figures.get("context")
        self.eval = Samples(f"{folder}/{self.name}-eval.safetensors", context)
        self.train = Samples(f"{folder}/{self.name}-train.safetensors", context)
        self.transformer = kind == "transformer"
        self.double = self.loaded("head").double()
        # of a turn: the fastest of these is used, see `tune`
        self.batch = 256
        self.runs = {}

    def loaded(self, what):
        net = self.new()
        net.load_state_dict(load_file(f"{self.folder}/{self.name}-{what}.safetensors"), strict=True)
        return net

    def attention(self, net, fused):
        for block in getattr(net, "blocks", []):
            block.fused = fused

    @torch.inference_mode()
    def evaluate(self, net, samples, passes=1):
        """Loss of each sample in float64, and how many predictions are right."""
        order = torch.arange(samples)
        for _ in range(passes):
            losses, right = [], 0
            for part in order.split(self.batch):
                x, y = self.eval.batch(part, torch.float64)
                logits = net(x)
                right += (logits.argmax(-1) == y).sum().item()
                each = F.cross_entropy(logits.flatten(0, -2), y.flatten(), reduction="none")
                losses.append(each.view(len(part), -1).mean(1))
            losses = torch.cat(losses).numpy()
        return losses, right

    def optimiser(self, variant):
        """A model in training; each variant of AdamW has its own."""
        if variant not in self.runs:
            net = self.loaded("head")
            self.attention(net, self.fused_training if self.transformer else True)
            beta2 = 0.95 if self.transformer else 0.999
            figures = dict(lr=self.spec["lr"], weight_decay=self.spec["decay"], betas=(0.9, beta2), eps=1e-8)
            how = {"default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}[variant]
            self.runs[variant] = (net, torch.optim.AdamW(net.parameters(), **figures, **how))
        return self.runs[variant]

    def steps(self, variant, steps):
        net, adam = self.optimiser(variant)
        order = iter(())
        for _ in range(steps):
            part = next(order, None)
            if part is None:
                order = iter(torch.randperm(self.spec["shard"]).split(self.spec["batch"]))
                part = next(order)
            x, y = self.train.batch(part, torch.float32)
            loss = F.cross_entropy(net(x).flatten(0, -2), y.flatten())
            adam.zero_grad()
            loss.backward()
            if self.transformer:
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            adam.step()
            if not math.isfinite(loss.item()):
                raise ValueError("training diverged")

    def tune(self, samples, steps):
        """PyTorch at its best: the fastest batch size and attention are kept."""
        choices = []
        for fused in [True, False] if self.transformer else [True]:
            self.attention(self.double, fused)
            for self.batch in [8, 64, 256, 1024]:
                if self.batch > 4 * samples:
                    continue
                self.evaluate(self.double, min(samples, self.batch))
                times = [clocked(lambda: self.evaluate(self.double, samples))["cpu_s"] for _ in range(2)]
                choices.append((min(times), self.batch, fused))
        _, self.batch, fused = min(choices)
        self.attention(self.double, fused)
        choices = []
        for self.fused_training in [True, False] if self.transformer else [True]:
            self.runs.clear()
            self.steps("default", 1)
            times = [clocked(lambda: self.steps("default", steps))["cpu_s"] for _ in range(2)]
            choices.append((min(times), self.fused_training))
        _, self.fused_training = min(choices)
        self.runs.clear()
        for variant in ["default", "foreach", "fused"]:
            self.steps(variant, 1)
        return {"batch": self.batch, "attention_evaluation": fused, "attention_training": self.fused_training}

    def check(self, samples):
        """Writes what the other side compares: losses, the weights again, and weights trained here."""
        path = f"{self.folder}/{self.name}"
        self.evaluate(self.double, samples)[0].tofile(f"{path}-head.f64")
        save_file(self.loaded("head").state_dict(), f"{path}-back.safetensors")
        self.fused_training = True
        self.steps("default", 20)
        trained = self.runs.pop("default")[0]
        save_file(trained.state_dict(), f"{path}-trained.safetensors")
        self.evaluate(trained.double(), samples)[0].tofile(f"{path}-trained.f64")
        return {}


def clocked(what):
    cpu, wall = time.process_time(), time.perf_counter()
    what()
    return {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = sys.argv[1]
    with open(f"{folder}/spec.json") as f:
        models = {spec["name"]: Model(folder, spec) for spec in json.load(f)}
    say({"torch": torch.__version__, "python": sys.version.split()[0], "threads": torch.get_num_threads()})
    for line in sys.stdin:
        task = json.loads(line)
        model = models[task["model"]]
        match task["do"]:
            case "check":
                say(model.check(task["samples"]))
            case "tune":
                say(model.tune(task["samples"], task["steps"]))
            case "evaluate":
                say(clocked(lambda: model.evaluate(model.double, task["samples"], task["passes"])))
            case "train":
                say(clocked(lambda: model.steps(task["variant"], task["steps"])))


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        pass  # the other side has gone
