"""`make install-test`: docs/install.md's own blocks on a cluster that has never seen perun."""
