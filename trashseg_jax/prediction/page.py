"""index.html: the overlays, those with the most trash first."""

import html
from collections.abc import Sequence
from urllib.parse import quote

from trashseg_jax.prediction.inputs import Photo
from trashseg_jax.prediction.outputs import Record
from trashseg_jax.prediction.summary import trash_share

STYLE = (
    "body{font:15px sans-serif;margin:2em}"
    "main{display:grid;grid-template-columns:repeat(auto-fill,minmax(20em,1fr));gap:1.5em}"
    "figure{margin:0}img{width:100%;height:auto}figcaption{overflow-wrap:anywhere}"
)


def format_page(records: Sequence[tuple[Photo, Record]], *, names: Sequence[str], bad: int) -> str:
    """Returns a page that needs the folders `overlays` and `masks` beside it and no network."""

    def share(one: tuple[Photo, Record]) -> float:
        return trash_share(one[1], background=names[0])

    ordered = sorted(records, key=lambda one: (-share(one), one[0].name))
    figures = "\n".join(_figure(one[0], share(one)) for one in ordered)
    left_out = f", {bad} could not be read" if bad else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Trash in {len(records)} photographs</title><style>{STYLE}</style>\n"
        f"<h1>Trash in {len(records)} photographs</h1>\n"
        f"<p>By the share of pixels that are trash, the largest first{left_out}. "
        f'<a href="summary.csv">summary.csv</a> has the figures.</p>\n<main>\n{figures}\n'
        "</main></html>\n"
    )


def _figure(photo: Photo, share: float) -> str:
    name, link = html.escape(photo.listed), quote(photo.name)
    return (
        f'<figure><a href="overlays/{link}.jpg"><img loading="lazy" src="overlays/{link}.jpg" '
        f'alt="{name}"></a><figcaption>{name}: {share:.1%} trash '
        f'(<a href="masks/{link}.png">mask</a>)</figcaption></figure>'
    )
