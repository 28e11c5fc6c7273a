"""Training: one loop for the laptop and for many GPUs (accelerate), resumable to the bit."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, set_seed
from rich.progress import Progress
from safetensors import SafetensorError
from torch import Tensor, nn

from model.backbones import known_preset, new_config, new_model
from model.calibration import stacked_rank1
from model.catalogue import Catalogue
from model.dataset import Batch, TrainingSet
from model.errors import TrainingError
from model.files import write_json
from model.inputs import prepare_inputs
from model.network import FashionBertModel
from model.progress import progress_bars
from model.tasks import contrastive_loss, draw_negatives, gather, match_loss
from model.validate import Validation, fit_to_unseen, validate
from model.wordpiece import backbone_tokenizer, save_tokenizer, train_wordpiece


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """The knobs of a run; docs and `fashionbert train --help` say what each does.

    `batch_size` is per process. `head_learning_rate` is for what no text backbone brings along, the
    patch embeddings and the two heads; None takes `learning_rate`. `hard_from` and `hard_until`
    are shares of the run between which TIA's negatives harden from random to drawn by recall
    similarity. `patience` counts validations without a better rank.
    """

    preset: str = "small"
    text_backbone: str | None = None
    cnn: str | None = None
    vocab_size: int = 4000
    epochs: float = 10
    batch_size: int = 64
    learning_rate: float = 1e-4
    head_learning_rate: float | None = None
    cnn_learning_rate: float = 1e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    negatives: int = 1
    hard_from: float = 0.1
    hard_until: float = 0.6
    same_group: float = 0.5
    group_by: str | None = None
    augment: bool = True
    mixed_precision: str = "bf16"
    seed: int = 0
    validate_every: float = 1.0
    validate_queries: int = 200
    patience: int = 3
    checkpoint_steps: int = 200
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)


#: What a full disk makes of saving: safetensors and torch have errors of their own for it.
_WRITE_ERRORS = (OSError, SafetensorError, RuntimeError)


class TrainingModel(nn.Module):
    """The network with its tasks: one forward a step, so that any wrapper (DDP) sees one."""

    def __init__(self, network: FashionBertModel, negatives: int) -> None:
        super().__init__()
        self.network = network
        self.negatives = negatives

    def forward(
        self, batch: Batch, hardness: float, generator: torch.Generator, offset: int
    ) -> dict[str, Tensor]:
        """Losses by task, and `match_accuracy`.

        Args:
            batch: B products of this process.
            hardness: share of hard TIA negatives.
            generator: draws the negatives.
            offset: this process's first row among those of all.
        """
        network = self.network
        texts, text_embeddings = network.encode_text(batch.input_ids, batch.attention_mask)
        images, image_embeddings = network.encode_image(**batch.images)
        size = len(texts)
        same = batch.text_numbers[:, None] == gather(batch.text_numbers)[None, :]
        local = same[:, offset : offset + size]
        losses: dict[str, Tensor] = {}
        similarity = texts.new_zeros(size, size)
        head = network.recall_head
        if head is not None and text_embeddings is not None and image_embeddings is not None:
            losses["recall"] = contrastive_loss(
                text_embeddings, image_embeddings, head.scale, same, offset
            )
            similarity = head.scale * text_embeddings @ image_embeddings.T
        else:
            hardness = 0.0

        count = self.negatives
        drawn = draw_negatives(similarity, local, hardness, count, generator)
        rows = torch.arange(size, device=texts.device)
        repeated = rows.repeat_interleave(count)
        text_rows = torch.cat([rows, repeated, drawn.texts.flatten().to(rows.device)])
        image_rows = torch.cat([rows, drawn.images.flatten().to(rows.device), repeated])
        logits = network.match(
            texts[text_rows], batch.attention_mask[text_rows], images[image_rows]
        )
        positive, with_images, with_texts = logits.split([size, size * count, size * count])
        match = match_loss(
            positive,
            with_images.view(size, count),
            with_texts.view(size, count),
            drawn.usable.to(rows.device),
        )
        losses["match"] = match.loss
        losses["match_accuracy"] = match.accuracy
        return losses


@dataclass
class Progression:
    """Where a run is; saved with every checkpoint."""

    step: int = 0
    best_score: float = -1.0
    best_step: int = 0
    stale: int = 0
    stopped: bool = False

    def state_dict(self) -> dict[str, Any]:
        """For accelerate."""
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """For accelerate."""
        for name, value in state.items():
            setattr(self, name, value)


def hardness_at(progress: float, settings: TrainSettings) -> float:
    """Share of hard TIA negatives at a point of the run (0…1)."""
    span = max(settings.hard_until - settings.hard_from, 1e-9)
    return min(1.0, max(0.0, (progress - settings.hard_from) / span))


def learning_rate_at(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then linear decay to 0, as a factor."""
    warm = max(1, round(warmup * steps))
    return min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm)))


#: What no text backbone brings along, and what may learn faster therefore.
_HEADS = ("patch_embeddings.", "recall_head.", "match_head.")


def _optimizer(network: FashionBertModel, settings: TrainSettings) -> torch.optim.AdamW:
    rates = {
        "backbone": settings.learning_rate,
        "head": settings.head_learning_rate or settings.learning_rate,
        "cnn": settings.cnn_learning_rate,
    }
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "head" if name.startswith(_HEADS) else "backbone"
        if name.startswith("patch_network.cnn"):
            part = "cnn"
        decays = part != "cnn" and parameter.dim() >= 2 and "norm" not in name
        groups.setdefault((part, decays), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": rates[part],
                "weight_decay": settings.weight_decay if decays else 0.0,
            }
            for (part, decays), parameters in groups.items()
        ],
        lr=settings.learning_rate,
        betas=settings.betas,
        fused=True,
    )


def check_settings(settings: TrainSettings) -> None:
    """Refuse settings that no run can have, before anything is written.

    Raises:
        TrainingError: naming the setting and what it may be.
    """
    known_preset(settings.preset)
    for name in ("epochs", "learning_rate", "cnn_learning_rate", "validate_every"):
        value = getattr(settings, name)
        if not 0 < value < math.inf:
            raise TrainingError(f"{name}={value:g}: give a number above 0")
    if settings.mixed_precision not in ("bf16", "fp16", "no"):
        raise TrainingError(f"mixed_precision={settings.mixed_precision!r}: bf16, fp16 or no")
    if settings.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise TrainingError("mixed_precision='fp16' needs a GPU: bf16 is for both, no for neither")


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _restore(folder: Path) -> None:
    """Bring back what stood there, if the process died between the two renames."""
    if _old(folder).exists() and not folder.exists():
        os.rename(_old(folder), folder)


class Trainer:
    """One run in one folder: starts, goes on, validates, keeps the best.

    The folder afterwards:

        best/            the checkpoint with the best validation rank: `from_pretrained` reads it
        checkpoints/     the newest exact state, for resuming
        log.jsonl        a line a step, a line a validation
        run.json         the settings

    Args:
        settings: the knobs.
        train: products to learn from.
        valid: products to choose by; never trained on. None keeps the last state.
        out: the run's folder.
        cache: where picture arrays are kept between runs; `out`/cache by default.
        text_template: kept beside the checkpoint.
        show_progress: bars on the terminal.

    Raises:
        TrainingError: too few products, an impossible configuration, or a folder with the
            checkpoints of a different run.
    """

    def __init__(
        self,
        settings: TrainSettings,
        train: Catalogue,
        valid: Catalogue | None,
        out: Path,
        *,
        cache: Path | None = None,
        text_template: str | None = None,
        show_progress: bool = False,
    ) -> None:
        self.settings = settings
        self.out = out
        self.text_template = text_template
        self.show_progress = show_progress
        check_settings(settings)
        self.accelerator = Accelerator(
            mixed_precision=settings.mixed_precision, cpu=not torch.cuda.is_available()
        )
        self.device = self.accelerator.device
        texts = {product.text for product in train.products}
        world = self.accelerator.num_processes
        if len(texts) < 2:
            raise TrainingError(
                f"the feed has {len(train.products)} products with {len(texts)} different texts: "
                "there is nothing to tell apart; give at least 2"
            )
        self.batch_size = min(settings.batch_size, len(train.products) // world)
        if self.batch_size < 2:
            raise TrainingError(f"{len(train.products)} products are too few for {world} processes")

        set_seed(settings.seed)
        self.tokenizer_path = out / "tokenizer.json"
        try:
            out.mkdir(parents=True, exist_ok=True)
            self._claim_folder(train)
        except OSError as error:
            raise TrainingError(
                f"{out} cannot be written to ({error}): choose another folder"
            ) from error
        network = self._new_network(train)
        cache = cache or out / "cache"
        network.to(self.device)
        with self._bars() as bars, self.accelerator.main_process_first():
            inputs = prepare_inputs(network, train, cache, progress=bars)
            valid_inputs = prepare_inputs(network, valid, cache, progress=bars) if valid else None
        tokens = network.config.max_text_tokens
        self.train_set = TrainingSet(train, inputs, self.tokenizer_path, tokens, settings.group_by)
        self.validation = None
        if valid is not None and valid_inputs is not None:
            self.validation = Validation(
                TrainingSet(valid, valid_inputs, self.tokenizer_path, tokens, settings.group_by),
                settings.validate_queries,
            )
        self.steps_per_epoch = len(self.train_set) // (self.batch_size * world)
        self.steps = max(1, math.ceil(settings.epochs * self.steps_per_epoch))

        optimizer = _optimizer(network, settings)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_at(step, self.steps, settings.warmup)
        )
        model = TrainingModel(network, settings.negatives)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.progression = Progression()
        self.accelerator.register_for_checkpointing(self.scheduler, self.progression)

    @property
    def network(self) -> FashionBertModel:
        """The bare network."""
        unwrapped: TrainingModel = self.accelerator.unwrap_model(self.model)
        return unwrapped.network

    @contextlib.contextmanager
    def _bars(self) -> Iterator[Progress | None]:
        if not (self.show_progress and self.accelerator.is_main_process):
            yield None
            return
        with progress_bars() as bars:
            yield bars

    def _claim_folder(self, train: Catalogue) -> None:
        """Write run.json, or see that the run that is there already is this one."""
        described = {**dataclasses.asdict(self.settings), "feed": train.fingerprint}
        described["betas"] = list(self.settings.betas)
        path = self.out / "run.json"
        if path.exists():
            before = json.loads(path.read_text())
            changed = sorted(name for name in described if before.get(name) != described[name])
            if changed and (self.out / "checkpoints").exists():
                raise TrainingError(
                    f"{self.out} holds a run with other settings ({', '.join(changed)}): "
                    "choose another folder, or remove this one to start again"
                )
            if changed and self.accelerator.is_main_process:
                self.tokenizer_path.unlink(missing_ok=True)  # of the settings before
        if self.accelerator.is_main_process:
            write_json(path, described)
        self.accelerator.wait_for_everyone()

    def _new_network(self, train: Catalogue) -> FashionBertModel:
        settings = self.settings
        backbone = settings.text_backbone or known_preset(settings.preset)["text_backbone"]
        with self.accelerator.main_process_first():
            if not self.tokenizer_path.exists():
                if backbone is not None:
                    tokenizer = backbone_tokenizer(backbone)
                else:
                    texts = (product.text for product in train.products)
                    tokenizer = train_wordpiece(texts, settings.vocab_size)
                save_tokenizer(tokenizer, self.tokenizer_path)
        from tokenizers import Tokenizer

        vocab_size = Tokenizer.from_file(str(self.tokenizer_path)).get_vocab_size()
        config = new_config(
            settings.preset,
            text_backbone=backbone,
            cnn=settings.cnn,
            vocab_size=vocab_size,
            **settings.overrides,
        )
        return new_model(config, backbone)

    def run(self) -> Path:
        """Train to the end, or go on from the newest checkpoint.

        Returns:
            The folder of the best checkpoint.

        Raises:
            TrainingError: the loss is not finite, or a checkpoint cannot be written; what was
                saved before stands.
        """
        self._resume()
        progression = self.progression
        every = max(1, round(self.settings.validate_every * self.steps_per_epoch))
        with self._bars() as bars:
            task = None
            if bars is not None:
                task = bars.add_task("training", total=self.steps, completed=progression.step)
            for batch in self._batches():
                if progression.stopped:
                    break
                figures = self._step(batch)
                progression.step += 1
                if bars is not None and task is not None:
                    bars.update(
                        task,
                        completed=progression.step,
                        description=f"training  match {figures['match']:.3f}",
                    )
                last = progression.step == self.steps
                validates = progression.step % every == 0 or last
                saves = progression.step % self.settings.checkpoint_steps == 0 or last
                if validates or saves:
                    self._check_weights()
                if validates:
                    self._validate(bars)
                if saves or progression.stopped:
                    self._save_state()
            self._finish(bars)
        self.accelerator.wait_for_everyone()
        return self.out / "best"

    def _finish(self, bars: Progress | None) -> None:
        """Fit to unseen products what is fitted last, on the best checkpoint, once."""
        if not self.accelerator.is_main_process:
            return
        best = self.out / "best"
        if not (best / "training.json").is_file():
            raise TrainingError(
                f"{best} is gone, though the run in {self.out} is at its end: remove "
                f"{self.out / 'checkpoints'} to start again"
            )
        training = json.loads((best / "training.json").read_text())
        if self.validation is None or "calibration" in training:
            return
        network = FashionBertModel.from_pretrained(best).to(self.device)
        before = validate(network, self.validation, bars, rerank_all=True)
        training["calibration"] = fit_to_unseen(network, before)
        after = validate(network, self.validation, bars, rerank_all=True)
        training["figures"], training["figures_before_fit"] = after.figures, before.figures
        self._write_best(network, training)
        self._log({"step": self.progression.step, "validation": after.figures, "final": True})

    def _write_best(self, network: FashionBertModel, training: dict[str, Any]) -> None:
        def write(folder: Path) -> None:
            network.save_pretrained(folder)
            shutil.copyfile(self.tokenizer_path, folder / "tokenizer.json")
            write_json(folder / "training.json", training)

        self._replace(self.out / "best", write)

    def _batches(self) -> Iterator[Batch]:
        """Batches from the current step to the end, each made while the one before is trained."""
        source = self._batch_source()
        with ThreadPoolExecutor(max_workers=1) as pool:
            ahead = pool.submit(next, source, None)
            while (batch := ahead.result()) is not None:
                ahead = pool.submit(next, source, None)
                yield batch.to(self.device)

    def _batch_source(self) -> Iterator[Batch]:
        step = self.progression.step
        while step < self.steps:
            epoch, start = divmod(step, self.steps_per_epoch)
            for batch in self.train_set.batches(
                epoch,
                batch_size=self.batch_size,
                same_group=self.settings.same_group,
                seed=self.settings.seed,
                augment=self.settings.augment,
                start=start,
                process=self.accelerator.process_index,
                processes=self.accelerator.num_processes,
            ):
                yield batch
                step += 1
                if step == self.steps:
                    return

    def _step(self, batch: Batch) -> dict[str, float]:
        settings, step = self.settings, self.progression.step
        self.model.train()
        process = self.accelerator.process_index
        generator = torch.Generator().manual_seed(
            (settings.seed * 1_000_003 + step) * 1_009 + process
        )
        hardness = hardness_at(step / self.steps, settings)
        losses = self.model(batch, hardness, generator, process * self.batch_size)
        accuracy = losses.pop("match_accuracy")
        # The tasks weigh the same for now; the adaptive weights (paper §3.5) go here.
        loss = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(loss):
            raise self._diverged(f"the loss is {loss.item()}")
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        figures = {name: float(value.detach()) for name, value in losses.items()}
        figures["match_accuracy"] = float(accuracy)
        rate = self.optimizer.param_groups[0]["lr"]
        self._log({"step": step, **figures, "hardness": round(hardness, 4), "lr": rate})
        return figures

    def _check_weights(self) -> None:
        """Nothing is validated or saved of a network that has broken in its last step."""
        for name, parameter in self.network.named_parameters():
            if not torch.isfinite(parameter).all():
                raise self._diverged(f"{name} is not finite")

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(
            f"{what} at step {self.progression.step}: lower the learning rate "
            f"({self.settings.learning_rate:g}); the checkpoints in {self.out} are untouched"
        )

    def _validate(self, bars: Progress | None) -> None:
        progression = self.progression
        if self.validation is None:
            progression.best_step = progression.step
            self._save_best({})
            return
        result = validate(self.network, self.validation, bars)
        figures = result.figures
        if self.network.config.stack_recall:
            score = figures["stacked_rank1"] = stacked_rank1(result.samples)
        else:
            # Without a recall head there is no first stage: then reranking everything counts.
            stage = "two_stage" if self.network.config.recall_size else "rerank"
            ways = ("text_to_image", "image_to_text")
            score = sum(figures[way]["sampled"][stage]["rank1"] for way in ways)
        # Processes may round differently, and all of them must stop at the same step.
        score = float(broadcast(torch.tensor(score, dtype=torch.float64, device=self.device)))
        self._log({"step": progression.step, "validation": figures})
        if score > progression.best_score:
            progression.best_score, progression.best_step = score, progression.step
            progression.stale = 0
            self._save_best({"step": progression.step, "figures": figures})
        else:
            progression.stale += 1
            progression.stopped = progression.stale >= self.settings.patience

    def _log(self, line: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _save_best(self, training: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            self._write_best(self.network, {**training, "text_template": self.text_template})
        self.accelerator.wait_for_everyone()

    def _save_state(self) -> None:
        """Exact state, in a folder that appears whole."""
        folder = self.out / "checkpoints" / f"step-{self.progression.step:08d}"
        part = folder.with_name(f".{folder.name}.part")
        try:
            if self.accelerator.is_main_process:
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(part))
            if self.accelerator.is_main_process:
                shutil.rmtree(folder, ignore_errors=True)
                os.rename(part, folder)
                for older in folder.parent.glob("step-*"):
                    if older.name < folder.name:
                        shutil.rmtree(older, ignore_errors=True)
        except _WRITE_ERRORS as error:
            shutil.rmtree(part, ignore_errors=True)
            raise TrainingError(
                f"the checkpoint {folder} cannot be written ({error}): the one before stands; "
                "make room and start again with the same command"
            ) from error
        self.accelerator.wait_for_everyone()

    def _replace(self, folder: Path, write: Any) -> None:
        part = folder.with_name(f".{folder.name}.part")
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            write(part)
        except _WRITE_ERRORS as error:
            shutil.rmtree(part, ignore_errors=True)
            raise TrainingError(f"{folder} cannot be written ({error}): make room") from error
        old = _old(folder)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.rename(folder, old)
        os.rename(part, folder)
        shutil.rmtree(old, ignore_errors=True)

    def _resume(self) -> None:
        if self.accelerator.is_main_process:
            _restore(self.out / "best")
        found = sorted((self.out / "checkpoints").glob("step-*"))
        if not found:
            (self.out / "log.jsonl").unlink(missing_ok=True)
            return
        try:
            self.accelerator.load_state(str(found[-1]))
        except Exception as error:  # safetensors, torch, zip and pickle have each their own
            raise TrainingError(
                f"{found[-1]} cannot be loaded ({(str(error) or repr(error)).splitlines()[0]}): "
                "it is of another shape or damaged; remove it to start again"
            ) from error
        self._trim_log()

    def _trim_log(self) -> None:
        """Drop the lines of steps that will be done again."""
        path = self.out / "log.jsonl"
        if self.accelerator.is_main_process and path.exists():
            step = self.progression.step
            kept = []
            for text in path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):
                    line = json.loads(text)
                    if line["step"] < step + ("validation" in line):
                        kept.append(text)
            path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
