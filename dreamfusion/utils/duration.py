"""Formats durations."""


def duration(seconds: float) -> str:
    """A duration as text: "8 s", "2 min 5 s" or "3 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
