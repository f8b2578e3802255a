"""`perun doctor`: what is wrong with an installation on a cluster, where, and what mends it."""
