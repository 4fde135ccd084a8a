"""Options that the user leaves to us; apart from the others, so that verbs without torch need not load it."""

AUTO = "auto"


def is_auto(text: str) -> bool:
    """Whether the user left the choice to us (MLflow hands over an empty text where a parameter is empty)."""
    return text.strip().lower() in ("", AUTO)
