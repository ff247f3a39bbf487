"""Times for people to read."""


def time_text(seconds: float) -> str:
    """A time in its two largest units, for example ``2 h 01 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
