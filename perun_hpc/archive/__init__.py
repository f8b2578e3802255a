"""The archive: where everything lies in it, and who puts what there."""
