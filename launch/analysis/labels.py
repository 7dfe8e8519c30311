"""Text in figures."""


def plain_label(text: str) -> str:
    """Text for a label of a figure, in which matplotlib would take what is between two dollar signs for a formula."""
    return text.replace("$", r"\$")
