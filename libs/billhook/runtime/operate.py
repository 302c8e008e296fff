import typer


def attach(app: typer.Typer) -> None:
    """Placeholder while being written."""
