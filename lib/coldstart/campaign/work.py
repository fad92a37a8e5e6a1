"""The work that follows from what a campaign's store holds; each piece goes on from what was written before it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

from sqlalchemy import select

from coldstart.campaign import fetching, learning, planning, prelabels, vectors
from coldstart.campaign.fetching import Fetch
from coldstart.campaign.progress import reporter
from coldstart.embedding import create_encoder
from coldstart.segmentation import Model, faster, predict_prepared, prepare_image
from coldstart.settings import Settings
from coldstart.store import Image, Store

TaskName = Literal["embedding", "entropy", "prelabel"]


def to_do(store: Store, settings: Settings, model_path: Path) -> dict[TaskName, str]:
    """Tasks that have something to do, each with a fingerprint that changes when there is something else to do."""
    tasks: dict[TaskName, str] = {}
    database = store.identity  # in a database made anew everything is to be done again
    with store.reading() as session:
        if planning.needs_embedding(session, settings):
            images = session.execute(
                select(Image.image_id, Image.signature).where(Image.present, Image.problem.is_(None))
            )
            tasks["embedding"] = str(hash((database, frozenset(images.tuples()))))
        model = learning.newest_model(session) if model_path.is_file() else None
        if model is not None and learning.needs_scoring(session):
            tasks["entropy"] = f"{model.version} {database}"
        elif model is not None and prelabels.waiting_model(session, settings.prelabel):
            tasks["prelabel"] = f"{model.version} {database}"
    return tasks


def embed(store: Store, settings: Settings, fetch: Fetch) -> int:
    """Embed what is new or changed, keep the map and the plan; return how many images were looked at."""
    with store.reading() as session:
        if not planning.needs_embedding(session, settings):
            return 0
    encoder = create_encoder(settings.encoder, weights=settings.encoder_weights, device=settings.device)
    report = reporter(store, "embedding", f"encoder {encoder.name}")
    key = vectors.encoder_key(encoder)
    store.patiently(partial(fetching.fetch_for_embedding, store, fetch, key))
    count = store.patiently(partial(vectors.embed_images, store, settings, encoder, report))
    store.patiently(partial(planning.update_map, store, settings, encoder))
    store.patiently(partial(planning.update_plan, store, settings))
    return count


def score(store: Store, settings: Settings, fetch: Fetch, model: Model) -> int:
    """Score the unlabelled images with the model in use; return how many were scored."""
    with store.reading() as session:
        if not learning.needs_scoring(session):
            return 0
    report = reporter(store, "entropy", f"model {model.version}")
    store.patiently(partial(fetching.fetch_for_scoring, store, fetch))
    return learning.score_pool(
        store,
        settings,
        model.version,
        prepare=partial(prepare_image, config=model.config),
        predict=partial(predict_prepared, faster(model)),
        progress=report,
    )
