"""What a person runs: thin scripts over `seqjax`."""
