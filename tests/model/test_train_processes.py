from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import ViTModel

from model.checkpoint import load_checkpoint

WORKER = """
import dataclasses
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from model.catalogue import read_catalogue
from model.tasks import contrastive_loss
from model.train import Trainer
from model.train_settings import TrainSettings

feed, out, results, vit = map(Path, sys.argv[1:])
settings = TrainSettings(
    preset="tiny", epochs=1, batch_size=16, learning_rate=1e-3, validate_queries=10,
    group_by="product_type",
    overrides={
        "hidden_size": 64, "num_hidden_layers": 3, "image_size": 64, "mlm": True, "mpm": True
    },
)
learn = read_catalogue(feed / "train.csv", check_images=False)
unseen = read_catalogue(feed / "val.csv", check_images=False)
trainer = Trainer(settings, learn, unseen, out)
steps = []
trainer.model.register_forward_pre_hook(lambda _, given: steps.append(given))
trainer.run()
rank = trainer.accelerator.process_index
state = {name: value.detach().contiguous() for name, value in trainer.network.named_parameters()}
state["all products"] = torch.as_tensor(trainer.train_set.text_numbers)
state["learnt"] = torch.stack([batch.text_numbers for batch, *_ in steps])
state["seeds"] = torch.tensor([generator.initial_seed() for _, _, generator, _ in steps])
state["offsets"] = torch.tensor([offset for *_, offset in steps])

generator = torch.Generator().manual_seed(0)
texts, images = torch.nn.functional.normalize(torch.randn(2, 8, 5, generator=generator), dim=-1)
numbers = torch.tensor([0, 1, 2, 0, 3, 4, 1, 5])
rows = slice(4 * rank, 4 * rank + 4)
same = numbers[rows, None] == numbers[None, :]
scale = torch.tensor(9.0)
state["contrastive"] = contrastive_loss(texts[rows], images[rows], scale, same, 4 * rank)

# The same loss of a network of two weights, whose gradient DDP takes the mean of.
class Towers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.texts, self.images = (torch.nn.Linear(5, 5, bias=False) for _ in range(2))
        for seed, tower in enumerate((self.texts, self.images)):
            generator = torch.Generator().manual_seed(seed)
            tower.weight.data = torch.randn(5, 5, generator=generator)

    def forward(self, texts, images):
        normalize = torch.nn.functional.normalize
        return contrastive_loss(
            normalize(self.texts(texts), dim=-1), normalize(self.images(images), dim=-1),
            scale, same, 4 * rank,
        )

towers = Towers()
parallel = torch.nn.parallel.DistributedDataParallel(towers)
parallel(texts[rows], images[rows]).backward()
state["texts.grad"], state["images.grad"] = towers.texts.weight.grad, towers.images.weight.grad
group = torch.distributed.distributed_c10d._get_default_group()
waits = group._get_backend(torch.device("cpu")).options._timeout
state["waits"] = torch.tensor(waits.total_seconds())

# A CNN that is trained but for its pooler, which nothing is made of.
settings = dataclasses.replace(settings, cnn=str(vit), weighting="adaptive-gradient", overrides={
    "hidden_size": 64, "num_hidden_layers": 3, "image_size": 64, "patches": "grid",
    "cnn_image_size": 28, "patch_grid": 2,
})
with_cnn = Trainer(settings, learn, None, out.with_name("vit"))
with_cnn.run()
for name, value in with_cnn.network.patch_network.cnn.named_parameters():
    state["cnn." + name] = value.detach().contiguous()
save_file(state, results / f"{rank}.safetensors")
with_cnn.close()
trainer.close()
"""


def test_two_processes_train_one_network(demo_catalogue: Path, vit: Path, tmp_path: Path) -> None:
    from model.tasks import contrastive_loss

    (tmp_path / "worker.py").write_text(WORKER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ran = subprocess.run(
        [*launch, tmp_path / "worker.py", demo_catalogue, tmp_path / "run", tmp_path, vit],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    losses = torch.stack([part.pop("contrastive") for part in (first, second)])
    # While the first one reads a CNN over all pictures the other waits.
    assert {float(part.pop("waits")) for part in (first, second)} == {24 * 3600}
    # Each has a part of every batch, places it among all rows, and draws negatives of its own.
    learnt, seeds, offsets = (
        [part.pop(name) for part in (first, second)] for name in ("learnt", "seeds", "offsets")
    )
    assert torch.equal(torch.cat(learnt).flatten().sort().values, first["all products"].sort()[0])
    assert len(set(torch.cat(seeds).tolist())) == 6
    assert [set(part.tolist()) for part in offsets] == [{0}, {16}]
    gradients = [second[f"{name}.grad"] for name in ("texts", "images")]
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    text = (tmp_path / "run" / "log.jsonl").read_text()
    log = [json.loads(line) for line in text.splitlines()]
    assert [line["step"] for line in log if "validation" not in line] == [0, 1, 2]
    load_checkpoint(tmp_path / "run" / "best")
    before = ViTModel.from_pretrained(vit).named_parameters()
    still = {name for name, value in before if torch.equal(value, first[f"cnn.{name}"])}
    assert still == {"pooler.dense.weight", "pooler.dense.bias"}
    # Each process's rows against the columns of both are, together, the loss of one process.
    generator = torch.Generator().manual_seed(0)
    texts, images = torch.nn.functional.normalize(torch.randn(2, 8, 5, generator=generator), dim=-1)
    numbers = torch.tensor([0, 1, 2, 0, 3, 4, 1, 5])
    whole = contrastive_loss(texts, images, torch.tensor(9.0), numbers[:, None] == numbers[None, :])
    torch.testing.assert_close(losses.mean(), whole)
    # And so is its gradient, in which each row is also a negative of the other process's rows.
    weights = [
        torch.randn(5, 5, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        for seed in range(2)
    ]
    seen = [
        torch.nn.functional.normalize(values @ weight.T, dim=-1)
        for values, weight in zip((texts, images), weights, strict=True)
    ]
    contrastive_loss(*seen, torch.tensor(9.0), numbers[:, None] == numbers[None, :]).backward()
    for ours, weight in zip(gradients, weights, strict=True):
        torch.testing.assert_close(ours, weight.grad)
