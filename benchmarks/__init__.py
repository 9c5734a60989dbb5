"""mathllm beside the libraries that one would otherwise take: see README.md."""
