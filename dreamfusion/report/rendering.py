"""Renders the templates in this folder. All text is escaped."""

from jinja2 import Environment, PackageLoader

_ENVIRONMENT = Environment(
    loader=PackageLoader("dreamfusion.report"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=lambda value: "" if value is None else value,
)


def render(template: str, **content: object) -> str:
    """Render a template with these variables."""
    return _ENVIRONMENT.get_template(template).render(content)
