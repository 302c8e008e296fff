from cli.shell import shell

__all__ = ["shell"]
