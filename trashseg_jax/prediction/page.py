"""index.html: the overlays, those with the most trash first."""

from collections.abc import Sequence
from urllib.parse import quote

from trashseg_jax.prediction.inputs import Photo
from trashseg_jax.prediction.outputs import Record
from trashseg_jax.prediction.summary import trash_share
from trashseg_jax.report.render import render


def format_page(records: Sequence[tuple[Photo, Record]], *, names: Sequence[str], bad: int) -> str:
    """Returns a page that needs the folders `overlays` and `masks` beside it and no network."""
    photos = [
        {
            "name": photo.listed,
            "link": quote(photo.name),
            "share": trash_share(record, background=names[0]),
        }
        for photo, record in sorted(records, key=lambda one: one[0].name)
    ]
    photos.sort(key=lambda photo: -photo["share"])
    return render("prediction.html", photos=photos, bad=bad)
