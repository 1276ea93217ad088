"""seqjax: the lowest loss that a per-step sequence model can reach, before it is trained."""
