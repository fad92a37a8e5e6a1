"""The pictures of the page by image id: out of the cache, or drawn and put there."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coldstart.campaign.records import find_image
from coldstart.images import Image, read_image
from coldstart.web.drawing import draw_image, draw_prediction
from coldstart.web.page import Page
from coldstart.web.picture_cache import PictureCache, pictures_bound

Overlay = Literal["prediction", "entropy"]

FOLDER = "pictures"
"""In the campaign's state folder."""
PREVIEW_SIDE = 512
DRAWN_AS = 1
"""Of the way that pictures are drawn: another number leaves what is kept of the one before to be thrown away."""


@dataclass(frozen=True)
class Wish:
    """A picture that is asked for, of an image as it is now."""

    image_id: str
    kind: str
    key: str
    side: int

    @property
    def tag(self) -> str:
        """What tells this picture from every other one."""
        return hashlib.blake2b(self.key.encode(errors="surrogatepass"), digest_size=12).hexdigest()


class Pictures:
    """Draws and keeps pictures; for any thread."""

    def __init__(self, page: Page):
        self._page = page
        self._cache = PictureCache(page.campaign.folder / FOLDER, pictures_bound(page.campaign.settings.cache_gb))

    def thumbnail(self, image_id: str, side: int) -> Wish:
        """A small picture of an image; UnknownImageError where there is none."""
        return self._wish(image_id, "image", side, list(self._page.campaign.settings.intensity_range or ()))

    def preview(self, image_id: str) -> Wish:
        """A larger one."""
        return self.thumbnail(image_id, PREVIEW_SIDE)

    def overlay(self, image_id: str, kind: Overlay) -> Wish:
        """What the newest model says of an image, over its preview; an error with a sentence where there is none."""
        return self._wish(image_id, kind, PREVIEW_SIDE, [self._page.model().version])

    def kept(self, wish: Wish) -> bytes | None:
        """The picture, where it was drawn before."""
        return self._cache.get(wish.key)

    def drawn(self, wish: Wish) -> bytes:
        """The picture; where it has to be drawn, that takes as long as reading the image, and a prediction.

        Raises
        ------
        ImageError
            If the image cannot be drawn.
        """
        if (kept := self.kept(wish)) is not None:  # somebody else waited for the same
            return kept
        image = self._read(wish.image_id)
        if wish.kind == "image":
            content = draw_image(image, wish.side, self._page.campaign.settings.intensity_range)
            self._cache.put(wish.key, content)
            return content
        model = self._page.model()
        both = dict(zip(("prediction", "entropy"), draw_prediction(model, image, wish.side), strict=True))
        for kind, content in both.items():
            self._cache.put(self._wish(wish.image_id, kind, wish.side, [model.version]).key, content)
        return both[wish.kind]

    def _wish(self, image_id: str, kind: str, side: int, details: list[float] | list[str]) -> Wish:
        with self._page.campaign.store.reading() as session:
            image = find_image(session, image_id)
        return Wish(image_id, kind, json.dumps([DRAWN_AS, kind, image_id, image.signature, side, details]), side)

    def _read(self, image_id: str) -> Image:
        path: Path = self._page.fetch(image_id)
        return read_image(path)
