"""Pages from templates: HTML in one file, with its styles and scripts, that needs no network."""

import base64
from typing import Any

import jinja2

MISSING = "\N{EN DASH}"


def render(template: str, **context: Any) -> str:
    """Returns the page that a file of `templates/` makes of the context; all text is escaped.

    A name that the context lacks raises jinja2.UndefinedError.
    """
    return _environment().get_template(template).render(**context)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trashseg_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "score": format_score,
        "change": format_change,
        "percent": format_percent,
        "count": format_count,
        "data_uri": data_uri,
        "option": repr,
    }
    return environment


def format_score(value: float | int | None, digits: int = 3) -> str:
    """Returns a figure from 0 to 1 as .123: the leading zero tells nothing in a column of them."""
    if value is None:
        return MISSING
    text = f"{value:.{digits}f}"
    return text[1:] if text.startswith("0.") else text


def format_change(value: float | int | None, digits: int = 3) -> str:
    """Returns a difference with its sign, a minus as long as a plus."""
    if value is None:
        return MISSING
    sign = "+" if value > 0 else "\N{MINUS SIGN}" if value < 0 else "±"
    return sign + format_score(abs(value), digits)


def format_percent(value: float | int | None) -> str:
    """Returns a share with two digits that tell: 12 %, 1.2 %, 0.12 %; what is less as < 0.01 %."""
    if value is None:
        return MISSING
    percent = 100 * value
    if 0 < percent < 0.01:
        return "< 0.01 %"
    digits = 0 if percent == 0 or percent >= 9.95 else 1 if percent >= 0.995 else 2
    return f"{percent:.{digits}f} %"


def format_count(value: int | None) -> str:
    """Returns a whole number in groups of three digits, kept together by narrow spaces."""
    if value is None:
        return MISSING
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def data_uri(content: bytes, kind: str) -> str:
    """Returns a picture of the kind (png, webp) as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
