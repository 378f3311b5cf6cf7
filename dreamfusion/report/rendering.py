"""Renders the templates in this folder. All text is escaped."""

from functools import cache

from jinja2 import Environment, PackageLoader


def render(template: str, **content: object) -> str:
    """Render a template with these variables."""
    return _environment().get_template(template).render(content)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("dreamfusion.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: "" if value is None else value,
    )
