"""Training: one loop for the laptop and for many GPUs (accelerate), resumable to the bit."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    broadcast,
    set_seed,
)
from rich.progress import Progress
from tokenizers import Tokenizer

from model.adaptive import new_weighting, shared_parameters, weighted_sum
from model.augmentation import Augmentation
from model.calibration import stacked_rank1
from model.checkpoint import load_checkpoint
from model.curves import draw_curves
from model.dataset import Batch, TrainingSet
from model.distil import load_teacher
from model.errors import BundleError, TrainingError
from model.export import try_image_encoder
from model.inputs import prepare_inputs
from model.malloc import keep_freed_memory
from model.masking import Masking, WordMasker
from model.mixed_precision import computes_bf16, fitting_precision
from model.network import FashionBertModel
from model.objective import TrainingModel
from model.product import Catalogue
from model.progress import progress_bars
from model.readable import check_texts, check_tokens
from model.run_folder import Progression, RunFolder
from model.run_start import describe_run, new_network, new_tokenizer
from model.schedule import hardness_at, learning_rate_at, new_optimizer
from model.train_settings import TrainSettings, check_settings
from model.validate import Validation, fit_to_unseen, validate
from model.wordpiece import save_tokenizer

#: How long processes wait for one another: while the first one alone reads a CNN over all pictures,
#: or fits at the end, which the defaults (10 minutes with NCCL, 30 with gloo) are no time for.
_WAIT = timedelta(days=1)


def _leaves_parts_out(network: FashionBertModel) -> bool:
    """Whether what is trained may have parts that no loss reaches, which DDP must be told.

    Such are a vision transformer's pooler and a ConvNeXt's last norm: the patches are what stands
    before them. All of a ResNet is reached, and asking costs each step a walk over its graph.
    """
    config = network.config
    cnn = config.cnn_config
    return cnn is not None and not config.freeze_cnn and cnn["model_type"] != "resnet"


def _say_nothing(_: str) -> None:
    """The `note` of a run without anybody to tell, and of all processes but the main one."""


class Trainer:
    """One run in one folder: starts, goes on, validates, keeps the best.

    Args:
        settings: the knobs.
        train: products to learn from.
        valid: products to choose by; never trained on. None keeps the last state.
        out: the run's folder, which no other run can have until `close`; see `model.run_folder`
            for what it holds.
        cache: where picture arrays are kept between runs; `out`/cache by default.
        text_template: kept beside the checkpoint.
        show_progress: bars on the terminal.
        note: told what a person should know of the texts, the pictures, the CNN and the processor,
            and how the ranks go, in the main process.

    Raises:
        TrainingError: too few products, or all of one text or one picture; an impossible
            configuration, or a folder with the checkpoints of a different run, or with one at
            work in it.
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
        note: Callable[[str], None] | None = None,
    ) -> None:
        self.text_template = text_template
        self.show_progress = show_progress
        check_settings(settings)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if settings.mixed_precision == "auto":
            settings = dataclasses.replace(settings, mixed_precision=fitting_precision(device))
        self.settings = settings
        self._parallel = DistributedDataParallelKwargs()  # read when the network is wrapped
        try:
            self.accelerator = Accelerator(
                mixed_precision=settings.mixed_precision,
                cpu=device.type == "cpu",
                kwargs_handlers=[InitProcessGroupKwargs(timeout=_WAIT), self._parallel],
            )
        except ValueError as error:
            if "already been initialized" not in str(error):
                raise  # torchrun's variables, say
            # accelerate keeps to the first precision of a process
            raise TrainingError(
                f"mixed_precision={settings.mixed_precision!r}: an earlier run of this process had "
                "another, and it can have but one: start this run in a process of its own"
            ) from error
        self.note = note if note and self.accelerator.is_main_process else _say_nothing
        self.device = self.accelerator.device
        if settings.mixed_precision == "bf16" and not computes_bf16(self.device):
            self.note(
                f"mixed_precision=bf16: this {self.device.type} only imitates that, which can be "
                "far slower than fp32; auto would be fp32 here"
            )
        if self.device.type == "cpu":
            keep_freed_memory()
        world = self.accelerator.num_processes
        check_texts("the feed has", train)
        if valid is not None:
            check_texts("to choose by (--valid) there are", valid)
        self.batch_size = min(settings.batch_size, len(train.products) // world)
        if self.batch_size < 2:
            raise TrainingError(f"{len(train.products)} products are too few for {world} processes")

        set_seed(settings.seed)
        self.folder = RunFolder(out, self.accelerator, describe_run(settings, train, valid, world))
        try:
            self._prepare(train, valid, cache or out / "cache")
        except BaseException:
            self.folder.close()
            raise

    def _prepare(self, train: Catalogue, valid: Catalogue | None, cache: Path) -> None:
        """Make what is trained, and what it is trained and validated on."""
        settings = self.settings
        network = self._new_network(train)
        config = network.config
        if config.freeze_cnn or settings.keep_maps:
            self.folder.check_frozen(network.patch_network)
        tokens, tokenizer = config.max_text_tokens, self.folder.tokenizer
        check_tokens("the feed", train, tokenizer, tokens, self.note)
        if valid is not None:
            check_tokens("the products to choose by", valid, tokenizer, tokens, self.note)
        teacher = None
        if settings.teacher is not None:
            teacher = load_teacher(
                Path(settings.teacher),
                network,
                self.folder.tokenizer,
                maps=settings.keep_maps,
                device=self.device,
            )
        masking = Masking(
            words=WordMasker(self.folder.tokenizer) if config.mlm else None,
            patches=config.num_patches if config.mpm else 0,
        )
        network.to(self.device)
        with self._bars() as bars, self.accelerator.main_process_first():
            prepare = partial(
                prepare_inputs, maps=settings.keep_maps, progress=bars, note=self.note
            )
            inputs = prepare(network, train, cache, mirror=settings.mirror)
            valid_inputs = None if valid is None else prepare(network, valid, cache, mirror=False)
        self.train_set = TrainingSet(
            train,
            inputs,
            tokenizer,
            tokens,
            settings.group_by,
            title_share=settings.title_share,
            masking=masking,
        )
        self.validation = None
        if valid is not None and valid_inputs is not None:
            self.validation = Validation(
                TrainingSet(valid, valid_inputs, tokenizer, tokens, settings.group_by),
                settings.validate_queries,
            )
        world = self.accelerator.num_processes
        self.steps_per_epoch = len(self.train_set) // (self.batch_size * world)
        self.steps = max(1, math.ceil(settings.epochs * self.steps_per_epoch))

        optimizer = new_optimizer(network, settings)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_at(step, self.steps, settings.warmup)
        )
        self.weighting = new_weighting(
            settings.weighting, weights=settings.task_weights, shared=shared_parameters(network)
        )
        negatives = min(settings.negatives, self.batch_size - 1)
        if negatives < settings.negatives:
            self.note(
                f"negatives={settings.negatives}: a batch of {self.batch_size} products has "
                f"{negatives} for each of them"
            )
        model = TrainingModel(network, negatives, settings.rank_loss, settings.joint_share, teacher)
        self._parallel.find_unused_parameters = _leaves_parts_out(network)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        if process := self.accelerator.process_index:
            # All have drawn the same weights; what dropout leaves out is each one's own.
            torch.manual_seed(settings.seed + process)
        self.progression = Progression()
        self.accelerator.register_for_checkpointing(self.scheduler, self.progression)

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the folder, and the process group where there is one; the network can be read.

        A `DistributedDataParallel` that outlives the group, up to the interpreter's end, makes
        one exit in ten abort (SIGABRT) after all is written, so it is let go first.
        """
        self.model = self.accelerator.unwrap_model(self.model)
        self.accelerator.free_memory()
        self.accelerator.end_training()
        self.folder.close()

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

    def _new_network(self, train: Catalogue) -> FashionBertModel:
        settings = self.settings
        start = None if settings.start_from is None else load_checkpoint(Path(settings.start_from))
        with self.accelerator.main_process_first():
            if not self.folder.tokenizer.exists():
                save_tokenizer(new_tokenizer(settings, train), self.folder.tokenizer)
        vocab_size = Tokenizer.from_file(str(self.folder.tokenizer)).get_vocab_size()
        network = new_network(settings, vocab_size, start)
        if start is None and network.config.cnn is not None and self.accelerator.is_main_process:
            try:
                try_image_encoder(network)
            except BundleError as error:  # it can still be evaluated, and teach another
                self.note(f"what is trained here cannot be served: {error}")
            except OSError as error:  # the trial is written where temporary files go
                self.note(f"whether what is trained here can be served could not be tried: {error}")
        return network

    def run(self) -> Path:
        """Train to the end, or go on from the newest checkpoint.

        Returns:
            The folder of the best checkpoint.

        Raises:
            TrainingError: the loss is not finite, or a checkpoint cannot be written; what was
                saved before stands.
        """
        self.folder.resume(self.progression)
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
                validates = progression.step % every == 0 or progression.step == self.steps
                saves = validates or progression.step % self.settings.checkpoint_steps == 0
                if saves:
                    self._check_weights()
                if validates:
                    self._validate(bars)
                if saves:
                    self.folder.save_state(progression.step)
                if validates and self.accelerator.is_main_process:
                    draw_curves(self.folder.path)
            if progression.stopped:
                self.note(
                    f"stopped at step {progression.step:,} of {self.steps:,}: no better rank in "
                    f"{progression.stale} validations"
                )
            self._finish(bars)
        self.accelerator.wait_for_everyone()
        return self.folder.best

    def _finish(self, bars: Progress | None) -> None:
        """Fit to unseen products what is fitted last, on the best checkpoint, once."""
        if not self.accelerator.is_main_process:
            return
        training = self.folder.read_best()
        if self.validation is None or "calibration" in training:
            return
        network = FashionBertModel.from_pretrained(self.folder.best).to(self.device)
        score = partial(validate, network, self.validation, bars, rerank_all=True)
        before = score()
        again = score if self.validation.products.has_several_views else None
        training["calibration"], figures = fit_to_unseen(network, before, again)
        training["figures"], training["figures_before_fit"] = figures, before.figures
        self.folder.write_best(network, training)
        self.folder.log({"step": self.progression.step, "validation": figures, "final": True})

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
                augmentation=Augmentation(self.settings.mirror, self.settings.shift),
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
        hardness = 0.0  # without a recall head nothing tells which negatives look alike
        if self.network.recall_head is not None:
            hardness = hardness_at(step / self.steps, settings)
        losses = self.model(batch, hardness, generator, process * self.batch_size)
        accuracy = losses.pop("match_accuracy")
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise self._diverged(f"the loss is {total.item()}")
        weights = self.weighting(losses, step=step)
        loss = weighted_sum(losses, weights)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), settings.clip)
        rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        figures = {name: float(value.detach()) for name, value in losses.items()}
        figures["match_accuracy"] = float(accuracy)
        rounded = {name: round(weight, 6) for name, weight in weights.items()}
        self.folder.log(
            {
                "step": step,
                **figures,
                "weights": rounded,
                "hardness": round(hardness, 4),
                "lr": rate,
            }
        )
        return figures

    def _check_weights(self) -> None:
        """Nothing is validated or saved of a network that has broken in its last step."""
        for name, parameter in self.network.named_parameters():
            if not torch.isfinite(parameter).all():
                raise self._diverged(f"{name} is not finite")

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(
            f"{what} at step {self.progression.step}: lower the learning rate "
            f"({self.settings.learning_rate:g}); the checkpoints in {self.folder.path} "
            "are untouched"
        )

    def _validate(self, bars: Progress | None) -> None:
        progression = self.progression
        if self.validation is None:
            self._save_best({})
            return
        result = validate(self.network, self.validation, bars)
        figures = result.figures
        if self.network.config.stack_recall:
            score = mean = figures["stacked_rank1"] = stacked_rank1(result.samples, result.aligned)
        else:
            # Without a recall head there is no first stage: then reranking everything counts.
            stage = "two_stage" if self.network.config.recall_size else "rerank"
            ways = ("text_to_image", "image_to_text")
            score = sum(figures[way]["sampled"][stage]["rank1"] for way in ways)
            mean = score / 2
        # Processes may round differently, and all of them must stop at the same step.
        score = float(broadcast(torch.tensor(score, dtype=torch.float64, device=self.device)))
        self.folder.log({"step": progression.step, "validation": figures})
        better = score > progression.best_score
        self.note(
            f"step {progression.step:,} of {self.steps:,}: Rank@1 {mean:.1f} %, the mean of both "
            f"ways{', the best so far' if better else ''}"
        )
        if better:
            progression.best_score, progression.stale = score, 0
            self._save_best({"step": progression.step, "figures": figures})
        else:
            progression.stale += 1
            progression.stopped = progression.stale >= self.settings.patience

    def _save_best(self, training: dict[str, Any]) -> None:
        self.folder.write_best(self.network, {**training, "text_template": self.text_template})
        self.accelerator.wait_for_everyone()
