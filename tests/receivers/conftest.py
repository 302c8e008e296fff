from receivers.node_receiver import node_project

__all__ = ["node_project"]
