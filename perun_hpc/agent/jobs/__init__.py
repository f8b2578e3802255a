"""Jobs, flagged steps and ranks: who begins, ends and hands something over."""
