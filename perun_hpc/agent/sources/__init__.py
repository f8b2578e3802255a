"""Where readings come from: the node's readers, children for sources that can hang, root's helper."""
