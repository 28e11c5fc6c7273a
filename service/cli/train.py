"""`fashionbert train`: a feed becomes a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from model.product import Catalogue
from service.cli import options
from service.cli.output import note


def train(
    feed: options.Feed,
    run: Annotated[Path, typer.Option("--out", help="Folder of the run; goes on if it has one.")],
    valid: Annotated[
        Path | None,
        typer.Option(help="Products to choose the best state by; never trained on."),
    ] = None,
    hold_out: Annotated[
        float | None,
        typer.Option(
            help="Without --valid: share of the feed to keep out for that, 0.05 by default, chosen "
            "by its texts alone, so that no later run on a feed that grew learns them (150 texts "
            "or more)."
        ),
    ] = None,
    preset: Annotated[str, typer.Option(help="tiny, small, base or paper.")] = "small",
    text_backbone: Annotated[
        str | None, typer.Option(help="A BERT, by hub id or folder, instead of the preset's.")
    ] = None,
    cnn: Annotated[
        str | None, typer.Option(help="A vision model, by hub id or folder, likewise.")
    ] = None,
    cnn_image_size: Annotated[
        int | None, typer.Option(help="Pixels a side that the CNN sees, such as a ViT's 224.")
    ] = None,
    joint_from: Annotated[
        int | None, typer.Option(help="Layers that see one modality only; 0 is the paper.", min=0)
    ] = None,
    train_cnn: Annotated[
        bool | None,
        typer.Option(
            "--train-cnn/--freeze-cnn",
            help="Train the CNN too, or keep it as it is; the preset's by default.",
        ),
    ] = None,
    frozen_cnn_stages: Annotated[
        int | None,
        typer.Option(help="First stages of a trained CNN that are kept as they are.", min=0),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Pixels a side of the square picture.", min=8)
    ] = None,
    patch_grid: Annotated[
        int | None, typer.Option(help="Patches a side of the picture.", min=1)
    ] = None,
    alignment: Annotated[
        int | None,
        typer.Option(help="Width of the token-to-patch alignment; 0 is without.", min=0),
    ] = None,
    dropout: Annotated[
        float | None, typer.Option(help="Of the hidden states; the preset's by default.", min=0)
    ] = None,
    keep_maps: Annotated[
        bool | None,
        typer.Option(
            "--keep-maps/--no-keep-maps",
            help="Compute once what --frozen-cnn-stages put out and keep it, 0.4 MB a picture "
            "and more: faster without a GPU; the preset's by default.",
        ),
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(help="A checkpoint folder whose weights the run begins with."),
    ] = None,
    fresh: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HEAD",
            help="With --start-from: a head that is drawn anew all the same, recall, alignment, "
            "match, mlm or mpm; may be given several times.",
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="A checkpoint folder whose ranking of the match's pairs is learnt too, such as "
            "one of --joint-from 0; it is not changed.",
        ),
    ] = None,
    images: options.Images = None,
    text: options.Text = None,
    id_column: options.IdColumn = "id",
    image_column: options.ImageColumn = "image",
    title_column: options.TitleColumn = "title",
    description_column: options.DescriptionColumn = "description",
    separator: options.Separator = "|",
    list_column: options.ListColumn = None,
    max_bad: options.MaxBad = 0.05,
    report: options.Report = None,
    group_by: options.GroupBy = None,
    epochs: Annotated[float, typer.Option(help="Passes over the feed.", min=0)] = 10,
    batch_size: Annotated[
        int | None, typer.Option(help="Products a step and process; 64, or the preset's.", min=2)
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="The highest, after warm-up; 1e-4, or the preset's: 2e-5 with paper."),
    ] = None,
    head_learning_rate: Annotated[
        float | None,
        typer.Option(help="Of what no backbone brings along; --learning-rate by default."),
    ] = None,
    cnn_learning_rate: Annotated[
        float | None,
        typer.Option(help="Of the CNN, where it is trained; 1e-5, or the preset's."),
    ] = None,
    warmup: Annotated[
        float | None,
        typer.Option(
            help="Share of the steps until the highest rate or, above 1, their number; 0.1, or "
            "the preset's: 5000 with paper.",
            min=0,
        ),
    ] = None,
    weight_decay: Annotated[
        float | None,
        typer.Option(help="Of AdamW; 0.01, or the preset's: 1e-4 with paper.", min=0),
    ] = None,
    betas: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Of AdamW; 0.9 0.98, or the preset's: 0.95 0.999 with paper."),
    ] = None,
    weighting: Annotated[
        str | None,
        typer.Option(
            help="Of the tasks: equal, adaptive-loss or adaptive-gradient (the paper's), or fixed "
            'with a weight for each, such as "fixed:recall=1,match=1,mlm=0.5"; equal by default, '
            "adaptive-loss with the preset paper, fixed with small."
        ),
    ] = None,
    mlm: Annotated[
        bool | None,
        typer.Option(
            "--mlm/--no-mlm", help="Hide words and learn to tell them; the preset's by default."
        ),
    ] = None,
    mpm: Annotated[
        bool | None,
        typer.Option("--mpm/--no-mpm", help="Hide patches and learn to tell them; likewise."),
    ] = None,
    negatives: Annotated[
        int | None,
        typer.Option(help="Match negatives a side; 1, or the preset's: 3 with small.", min=1),
    ] = None,
    joint_share: Annotated[
        float | None,
        typer.Option(
            help="Share of a batch's products in the tasks of the joint layers, which cost most; "
            "all, or the preset's: 0.25 with small.",
            max=1,
        ),
    ] = None,
    hard_from: Annotated[
        float,
        typer.Option(help="Share of the run until which match negatives are random.", min=0, max=1),
    ] = 0.1,
    hard_until: Annotated[
        float,
        typer.Option(help="Share of it from which all of them are look-alikes.", min=0, max=1),
    ] = 0.6,
    same_group: Annotated[
        float,
        typer.Option(help="Share of products in batches of one group.", min=0, max=1),
    ] = 0.5,
    title_share: Annotated[
        float,
        typer.Option(
            help="Share of products shown by their title alone, so that short queries are learnt.",
            min=0,
            max=1,
        ),
    ] = 0.0,
    mirror: Annotated[
        bool,
        typer.Option(
            "--mirror/--no-mirror",
            help="Show pictures mirrored at random, but for those whose text names a side. "
            "Features of a frozen CNN stay as they are.",
        ),
    ] = True,
    shift: Annotated[
        bool,
        typer.Option(
            "--shift/--no-shift",
            help="Show pixels shifted at random. Kept features and maps stay where they are.",
        ),
    ] = True,
    validate_every: Annotated[float, typer.Option(help="In epochs.")] = 1.0,
    validate_queries: Annotated[int, typer.Option(help="Queries each way.", min=1)] = 200,
    patience: Annotated[
        int, typer.Option(help="Validations without a better rank before it stops.", min=1)
    ] = 3,
    checkpoint_steps: Annotated[int, typer.Option(help="Steps between saved states.", min=1)] = 200,
    mixed_precision: Annotated[
        str, typer.Option(help="bf16, fp16, no, or auto: bf16 where that is fast.")
    ] = "auto",
    cache: Annotated[
        Path | None, typer.Option(help="Where picture features are kept; OUT/cache by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything drawn at random.")] = 0,
) -> None:
    """Train FashionBERT on a product feed; started again, it goes on where it was.

    The best checkpoint is OUT/best, for `fashionbert export`. On several GPUs:
    `torchrun --nproc-per-node 4 $(which fashionbert) train ...`

    \b
    Example:
      fashionbert train feed.csv --out runs/shop --text "{title}. {colour}" --group-by category
    """
    options.require_training()
    from model.catalogue import read_catalogue
    from model.holdout import hold_out as split
    from model.train import Trainer
    from model.train_settings import check_settings, preset_settings

    columns = options.columns(
        id_column, image_column, title_column, description_column, separator, list_column
    )

    # Each of torchrun's processes reads; one tells of it, as the trainer sees to from there on.
    tells = os.environ.get("RANK", "0") == "0"

    def read(path: Path, report_path: Path | None = None) -> Catalogue:
        catalogue = read_catalogue(
            path,
            images=images,
            text=text,
            columns=columns,
            max_bad=max_bad,
            report_path=report_path if tells else None,
            progress=tells,
        )
        if tells:
            note(catalogue.report.summary())
        return catalogue

    network = {
        "joint_from": joint_from,
        "cnn_image_size": cnn_image_size,
        "freeze_cnn": None if train_cnn is None else not train_cnn,
        "frozen_cnn_stages": frozen_cnn_stages,
        "image_size": image_size,
        "hidden_dropout_prob": dropout,
        "patch_grid": patch_grid,
        "alignment_size": alignment,
        "mlm": mlm,
        "mpm": mpm,
    }
    overrides: dict[str, Any] = {
        name: value for name, value in network.items() if value is not None
    }
    if joint_from == 0:  # there is nothing below the joint layers to stack on their score
        overrides = {"stack_recall": False, "alignment_size": 0, **overrides}
    name, task_weights = _weighting(weighting) if weighting else (None, None)
    settings = preset_settings(
        preset,
        text_backbone=text_backbone,
        cnn=cnn,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        head_learning_rate=head_learning_rate,
        weighting=name,
        task_weights=task_weights,
        cnn_learning_rate=cnn_learning_rate,
        warmup=warmup,
        weight_decay=weight_decay,
        betas=betas,
        negatives=negatives,
        joint_share=joint_share,
        hard_from=hard_from,
        hard_until=hard_until,
        keep_maps=keep_maps,
        start_from=None if start_from is None else str(start_from),
        fresh=fresh or None,
        teacher=None if teacher is None else str(teacher),
        same_group=same_group if group_by else 0.0,
        group_by=group_by,
        title_share=title_share,
        mirror=mirror,
        shift=shift,
        validate_every=validate_every,
        validate_queries=validate_queries,
        patience=patience,
        checkpoint_steps=checkpoint_steps,
        mixed_precision=mixed_precision,
        seed=seed,
        overrides=overrides,
    )
    check_settings(settings)  # before a long feed is read
    learn = read(feed, report)
    if valid is not None:
        if hold_out is not None and tells:
            note("nothing is held out (--hold-out), as --valid says what to choose by")
        choose = read(valid)
        options.check_group_by(choose, group_by, "--valid")
        if tells:
            _note_shared(learn, choose)
    else:
        learn, choose = split(learn, 0.05 if hold_out is None else hold_out)
        if tells:
            note(
                f"{len(learn):,} products to learn from, {len(choose):,} held out to choose the "
                "best state by (--hold-out)"
            )
    options.check_group_by(learn, group_by)
    try:
        with Trainer(
            settings,
            learn,
            choose,
            run,
            cache=cache,
            text_template=text,
            show_progress=True,
            note=note,
        ) as trainer:
            trainer.folder.write_held_out(choose if valid is None else None)
            best = trainer.run()
    except KeyboardInterrupt:
        if tells:
            _note_interrupted(run)
        raise
    use = f"`fashionbert export {best} --out BUNDLE` makes it a bundle"
    if not trainer.network.config.recall_size:
        use = (
            f"`fashionbert evaluate FEED --checkpoint {best}` tells how it ranks; a preset without "
            "a recall head cannot be searched with"
        )
    trainer.note(f"the best checkpoint is {best}: {use}")


def _note_interrupted(run: Path) -> None:
    """Say what the same command will do."""
    from model.run_folder import newest_state

    state = newest_state(run)
    note(
        "interrupted before a state was saved: the same command trains from the start, with what "
        "the pictures gave so far"
        if state is None
        else f"interrupted: the same command goes on from {state.name}"
    )


def _note_shared(learn: Catalogue, choose: Catalogue) -> None:
    """Say so where products to choose by are trained on."""
    from model.holdout import shared_products

    by_id, by_text = shared_products(learn, choose)
    if by_id or by_text:
        note(
            f"of the {len(choose)} products of --valid, {by_id} by their id and {by_text} by their "
            "text are trained on too: their ranks flatter, and the best state is chosen by what it "
            "knows by heart"
        )


def _weighting(spelled: str) -> tuple[str, dict[str, float] | None]:
    """`NAME`, or `fixed:TASK=WEIGHT,…` → the name, and the weights by task."""
    name, _, weights = spelled.partition(":")
    if not weights:
        return name, None
    try:
        pairs = [pair.split("=") for pair in weights.split(",")]
        given = {task.strip(): float(weight) for task, weight in pairs}
        if len(given) < len(pairs):
            raise ValueError("a task stands there twice")
        return name, given
    except ValueError as error:
        raise typer.BadParameter(
            f"{spelled!r}: give one weight to each task, as in fixed:recall=1,match=1",
            param_hint="--weighting",
        ) from error
