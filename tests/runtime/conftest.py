from runtime.shell import shell

__all__ = ["shell"]
