"""A training run on disk: what it is, where it stands, and its best checkpoint.

    best/            the checkpoint with the best validation rank: `from_pretrained` reads it
    checkpoints/     the newest exact state, for resuming
    held_out.txt     the ids of the products that the run held out itself, one a line
    log.jsonl        a line a step, a line a validation
    run.json         the settings
    tokenizer.json
    .lock            held by the run that is at work here

Every folder in it appears whole, by a rename, and is on the disk before the one before it goes: a
crash or a power cut leaves one of the two.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import shutil
import stat
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, load
from safetensors import SafetensorError, safe_open
from torch import nn

from model.checkpoint import read_training
from model.errors import TrainingError
from model.files import (
    replace_folder,
    sync_folder,
    sync_tree,
    take_lock,
    write_atomically,
    write_json,
)
from model.holdout import write_ids
from model.network import FashionBertModel
from model.patches import frozen_state
from model.product import Catalogue

#: What a full disk makes of saving: safetensors and torch have errors of their own for it.
_WRITE_ERRORS = (OSError, SafetensorError, RuntimeError)
#: Fields that a run.json of an earlier version lacks; such a run still goes on.
_ADDED_LATER = ("processes",)


@dataclass
class Progression:
    """Where a run is; saved with every checkpoint.

    `best_score` is that of best/, what validation chooses by; `stale` counts the validations since.
    """

    step: int = 0
    best_score: float = -1.0
    stale: int = 0
    stopped: bool = False

    def state_dict(self) -> dict[str, Any]:
        """For accelerate."""
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """For accelerate."""
        for name, value in state.items():
            setattr(self, name, value)


class RunFolder:
    """One run's folder; made if need be. With several processes only the main one writes.

    No other run can have it until `close`, or until this one's process has ended.

    Args:
        path: the folder.
        accelerator: knows which process is the main one, and saves its state.
        described: the settings and the feeds, as JSON holds them.

    Raises:
        TrainingError: it cannot be written to, another run is at work in it, or it holds the
            checkpoints of another run.
    """

    def __init__(self, path: Path, accelerator: Accelerator, described: dict[str, Any]) -> None:
        self.path = path
        self.accelerator = accelerator
        self.best = path / "best"
        self.tokenizer = path / "tokenizer.json"
        self._unlock: weakref.finalize[[int], RunFolder] | None = None
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock()
            self._claim(described)
        except OSError as error:
            self.close()
            raise TrainingError(
                f"{path} cannot be written to ({error}): choose another folder"
            ) from error
        except TrainingError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the folder, so that another run may have it; nothing may be written after."""
        if self._unlock is not None:
            self._unlock()

    def _lock(self) -> None:
        taken = [True]
        if self.accelerator.is_main_process:
            try:
                handle = take_lock(self.path / ".lock")
            except BlockingIOError:
                taken = [False]
            else:
                self._unlock = weakref.finalize(self, os.close, handle)
        broadcast_object_list(taken)  # so that all processes end, and say the same
        if not taken[0]:
            raise TrainingError(
                f"another training is at work in {self.path}: wait for its end, or choose another "
                "folder"
            )

    def _claim(self, described: dict[str, Any]) -> None:
        """Write run.json, or see that the run that is there already is this one."""
        source = self.path / "run.json"
        if source.exists():
            before = self._read(source)
            if "augment" in before:  # both at once, in an earlier version
                before = dict.fromkeys(("mirror", "shift"), before["augment"]) | before
            before = {name: described[name] for name in _ADDED_LATER} | before
            changed = sorted(name for name in described if before.get(name) != described[name])
            if changed and (self.path / "checkpoints").exists():
                raise TrainingError(
                    f"{self.path} holds a run with other settings ({', '.join(changed)}): "
                    f"choose another folder, where --start-from {self.best} begins with its "
                    "weights, or remove this one to start again"
                )
            if changed and self.accelerator.is_main_process:
                self.tokenizer.unlink(missing_ok=True)  # of the settings before
        elif newest_state(self.path) is not None:
            raise self._damaged(source, "it is gone")
        if self.accelerator.is_main_process:
            write_json(source, described)
        self.accelerator.wait_for_everyone()

    def _read(self, source: Path) -> dict[str, Any]:
        """What run.json says."""
        try:
            before = json.loads(source.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise self._damaged(source, str(error)) from error
        if not isinstance(before, dict):
            raise self._damaged(source, "no object")
        return before

    def _damaged(self, source: Path, reason: str) -> TrainingError:
        return TrainingError(
            f"{source} is damaged ({reason}), so nothing says which run this is: choose another "
            f"folder, or remove {self.path} to start again"
        )

    def write_held_out(self, products: Catalogue | None) -> None:
        """Write held_out.txt, so that what was held out can be evaluated apart; None removes it.

        Raises:
            TrainingError: it cannot be written.
        """
        if self.accelerator.is_main_process:
            with _writing(self.path / "held_out.txt") as path:
                if products is None:
                    path.unlink(missing_ok=True)
                else:
                    write_ids(path, products)

    def log(self, line: dict[str, Any]) -> None:
        """Add a line to log.jsonl.

        Raises:
            TrainingError: it cannot be written.
        """
        if self.accelerator.is_main_process:
            with (
                _writing(self.path / "log.jsonl") as path,
                path.open("a", encoding="utf-8") as file,
            ):
                file.write(json.dumps(line) + "\n")

    def write_best(self, network: FashionBertModel, training: dict[str, Any]) -> None:
        """Replace the best checkpoint; `training` goes into its training.json."""

        def write(folder: Path) -> None:
            network.save_pretrained(folder)
            shutil.copyfile(self.tokenizer, folder / "tokenizer.json")
            write_json(folder / "training.json", training)
            mode = stat.S_IMODE((folder / "training.json").stat().st_mode)  # as the umask has it
            for file in folder.iterdir():
                file.chmod(mode)  # safetensors makes its own for the owner alone

        if self.accelerator.is_main_process:
            _replace(self.best, write)

    def read_best(self) -> dict[str, Any]:
        """The best checkpoint's training.json.

        Raises:
            TrainingError: there is no best checkpoint, or it is damaged.
        """
        if not (self.best / "training.json").is_file():
            raise TrainingError(
                f"{self.best} is gone, though the run in {self.path} is at its end: remove "
                f"{self.path / 'checkpoints'} to start again"
            )
        return read_training(self.best)

    def save_state(self, step: int) -> None:
        """Save the exact state of all processes; the older one is removed.

        Raises:
            TrainingError: it cannot be written; the one before, if any, stands.
        """
        folder = self.path / "checkpoints" / f"step-{step:08d}"
        part = folder.with_name(f".{folder.name}.part")
        try:
            if self.accelerator.is_main_process:
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(part))
            self.accelerator.wait_for_everyone()  # each has written a part of its own
            if self.accelerator.is_main_process:
                sync_tree(part)
                shutil.rmtree(folder, ignore_errors=True)
                os.rename(part, folder)
                sync_folder(folder.parent)
                sync_folder(self.path)
                for older in folder.parent.glob("step-*"):
                    if older.name < folder.name:
                        shutil.rmtree(older, ignore_errors=True)
        except _WRITE_ERRORS as error:
            shutil.rmtree(part, ignore_errors=True)
            before = newest_state(self.path)
            stands = "nothing was saved yet" if before is None else f"{before.name} stands"
            raise TrainingError(
                f"the checkpoint {folder} cannot be written ({error}): {stands}; "
                "make room and start again with the same command"
            ) from error
        self.accelerator.wait_for_everyone()

    def check_frozen(self, patch_network: nn.Module) -> None:
        """See that the frozen part of the patch network is what this run began with.

        What that part makes of the pictures is computed and kept before the state is loaded. A CNN
        whose folder has changed since would make something that the trained part does not fit.

        Raises:
            TrainingError: the newest state has other weights, or is damaged.
        """
        state = newest_state(self.path)
        if state is None:
            return
        with _loading(state), safe_open(state / "model.safetensors", framework="pt") as file:
            differing = [
                name
                for name, value in frozen_state(patch_network).items()
                if not torch.equal(value, file.get_tensor(f"network.patch_network.{name}"))
            ]
        if differing:
            raise TrainingError(
                f"{self.path} holds a run with other settings (the CNN's weights, such as "
                f"{differing[0]}): choose another folder, or put back those that it began with"
            )

    def resume(self, progression: Progression) -> None:
        """Load the newest state, if there is one, into all that the accelerator knows.

        Raises:
            TrainingError: it is damaged or of another shape.
        """
        if self.accelerator.is_main_process:
            _restore(self.best)
        state = newest_state(self.path)
        if state is None:
            (self.path / "log.jsonl").unlink(missing_ok=True)
            return
        self._check_processes(state)
        with _loading(state):
            self.accelerator.load_state(str(state))
            self._check_generators(state)
        if self.accelerator.is_main_process:
            self._trim_log(progression.step)

    def _check_processes(self, state: Path) -> None:
        """See that a state has each process's generators: accelerate does without, silently."""
        saved = {file.name for file in state.glob("random_states_*.pkl")}
        count = self.accelerator.num_processes
        if saved != {f"random_states_{rank}.pkl" for rank in range(count)}:
            raise TrainingError(
                f"{state} cannot be loaded (it has the random states of {len(saved)} processes, "
                f"and here are {count}): start as many as before; if files are missing, remove it "
                "to start again"
            )

    def _check_generators(self, state: Path) -> None:
        """See that the generators stand where they stood: accelerate swallows what it cannot load.

        Torch's is the last one that it sets, but for those of devices.
        """
        file = state / f"random_states_{self.accelerator.process_index}.pkl"
        if not torch.equal(torch.get_rng_state(), load(file)["torch_manual_seed"]):
            raise ValueError(f"{file.name} was not taken")

    def _trim_log(self, step: int) -> None:
        """Drop the lines of steps that will be done again."""
        source = self.path / "log.jsonl"
        if not source.exists():
            return
        kept = []
        for text in source.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                if line["step"] < step + ("validation" in line):
                    kept.append(text)
        with _writing(source):
            write_atomically(source, "".join(f"{line}\n" for line in kept).encode())


def newest_state(run: Path) -> Path | None:
    """Of a run's folder, the newest exact state, if one was saved."""
    return max((run / "checkpoints").glob("step-*"), default=None)


@contextlib.contextmanager
def _loading(state: Path) -> Iterator[None]:
    """Turn what a damaged state makes fail into a `TrainingError`."""
    try:
        yield
    except Exception as error:  # safetensors, torch, zip and pickle have each their own
        reason = (str(error) or repr(error)).splitlines()[0]
        if isinstance(error, pickle.UnpicklingError):  # torch advises to run what is in it
            reason = "a file in it holds something else"
        raise TrainingError(
            f"{state} cannot be loaded ({reason}): "
            "it is of another shape or damaged; remove it to start again"
        ) from error


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """Turn what a full disk makes fail into a `TrainingError`; gives the path."""
    try:
        yield path
    except OSError as error:
        raise TrainingError(
            f"{path} cannot be written ({error}): make room and start again with the same command"
        ) from error


def _replace(folder: Path, write: Any) -> None:
    part, old = folder.with_name(f".{folder.name}.part"), _old(folder)
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        write(part)
        sync_tree(part)
        shutil.rmtree(old, ignore_errors=True)
        replace_folder(part, folder, old)
    except _WRITE_ERRORS as error:
        shutil.rmtree(part, ignore_errors=True)
        raise TrainingError(f"{folder} cannot be written ({error}): make room") from error


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _restore(folder: Path) -> None:
    """Bring back what stood there, if the process died between the two renames."""
    if _old(folder).exists() and not folder.exists():
        os.rename(_old(folder), folder)
